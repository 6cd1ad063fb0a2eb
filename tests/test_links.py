"""Every relative link and anchor in what the project says of itself leads to something that is there, as a code host reads it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "packaging/*.md", "monitoring/*.md", "systemd/*.md", "bench/*.md")
    for path in ROOT.glob(pattern)
)
FENCED = re.compile(r"^ *(```+)[^\n]*\n.*?^ *\1 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
# Names of pages that are not links: `docs/emps.md` in a sentence, in the code, in a configuration.
NAMED = re.compile(r"(?<![\w./-])(docs/[\w-]+\.md|ARCHITECTURE\.md|[a-z]+/README\.md)(#[\w-]+)?")
NAMING = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "Makefile", "docs/*.md", "cdc_pusher/**/*.py", "examples/**/*.*", "monitoring/*", "systemd/*", "bench/*.py")
    for path in ROOT.glob(pattern)
    if path.is_file()
)


def anchors(text: str) -> set[str]:
    """The anchors that a code host gives the headings of a page.

    >>> sorted(anchors("# A `b` c: d?\\n## Twice\\n### Twice\\n```\\n# no heading\\n```\\n"))
    ['a-b-c-d', 'twice', 'twice-1']
    """
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        taken = sum(1 for other in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", other))
        found.add(f"{slug}-{taken}" if taken else slug)
    return found


def dead(page: Path, text: str) -> Iterator[str]:
    """The links of a page's text that lead nowhere."""
    for match in LINK.finditer(FENCED.sub("", text)):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (anchor and (path.suffix != ".md" or anchor not in anchors(path.read_text(encoding="utf-8")))):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(dead(page, (ROOT / page).read_text(encoding="utf-8"))) == []


def test_dead_links_are_found() -> None:
    text = (
        "[a](roles.md) [b](nowhere.md) [c](roles.md#by-hand) [d](roles.md#no-such) [e](#gone) [f](../Makefile#x) [g](https://example.com)"
    )
    text += "\n```\n[h](in-a-block.md)\n```\n\n[i]: gone.md\n"
    assert list(dead(Path("docs/emps.md"), text)) == ["nowhere.md", "roles.md#no-such", "#gone", "../Makefile#x", "gone.md"]


@pytest.mark.parametrize("path", NAMING, ids=str)
def test_pages_that_are_named_are_there(path: Path) -> None:
    named = {match[1]: match[2] for match in NAMED.finditer((ROOT / path).read_text(encoding="utf-8"))}
    assert [page for page in named if not (ROOT / page).exists()] == []
