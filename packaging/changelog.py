"""Prints CHANGELOG.md, which comes on standard input, as a Debian changelog; what is unreleased is the version in the first argument.

The date of what is unreleased is that of SOURCE_DATE_EPOCH.
"""

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

MAINTAINER = "cdc-pusher maintainers <maintainers@cdc-pusher.invalid>"
_RELEASE = re.compile(r"## \[(?P<version>[^\]]+)\](?: - (?P<date>\d{4}-\d\d-\d\d))?\n")


def entries(text: str, version: str, now: datetime) -> Iterator[str]:
    """An entry for each release.

    >>> text = "# Changelog\\n\\n## [Unreleased]\\n\\n### Added\\n\\n- This\\n  and that.\\n"
    >>> print(*entries(text, "0.1.0", datetime(2026, 1, 2, tzinfo=UTC)))
    cdc-pusher (0.1.0) unstable; urgency=medium
    <BLANKLINE>
      [ Added ]
    <BLANKLINE>
      * This and that.
    <BLANKLINE>
     -- cdc-pusher maintainers <maintainers@cdc-pusher.invalid>  Fri, 02 Jan 2026 00:00:00 +0000
    <BLANKLINE>
    """
    releases = list(_RELEASE.finditer(text))
    for release, following in zip(releases, [*releases[1:], None], strict=True):
        body = text[release.end() : following.start() if following else None].strip()
        body = re.sub(r"^### (.+)$", r"[ \1 ]", body, flags=re.MULTILINE)
        items = re.split(r"\n(?=- )|\n\n", body)
        lines = "\n".join(_wrapped(item) for item in items).strip("\n")
        named = version if release["version"] == "Unreleased" else release["version"]
        date = datetime.fromisoformat(release["date"]).replace(tzinfo=UTC) if release["date"] else now
        yield f"cdc-pusher ({named}) unstable; urgency=medium\n\n{lines}\n\n -- {MAINTAINER}  {format_datetime(date)}\n"


def _wrapped(item: str) -> str:
    """One item, or the name of several between empty lines, as Debian indents it."""
    text = " ".join(item.split())
    if not text.startswith("- "):
        return f"\n  {text}\n"
    return textwrap.fill(f"* {text[2:]}", 78, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


if __name__ == "__main__":
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    sys.stdout.write("\n".join(entries(sys.stdin.read(), sys.argv[1], when)))
