"""A commented configuration from what was recognised or guessed. Pure."""

import json
from collections.abc import Mapping, Sequence

from cdc_pusher.init.guess import Draft, Query, Watched
from cdc_pusher.init.items import FILL_IN

Words = Mapping[str, Sequence[str]]
"""By table of `[source]` (`statuses`, `connector_types`), the CPO's words that nobody knows."""

HEAD = """\
# Written by cdc-pusher init. {recognised}
# All there is to configure: examples/cdc-pusher.toml. What to do with your tables: docs/mapping.md.
{missing}
[database]
dsn = {dsn}
"""

EMP = """\

# ── who receives ─────────────────────────────────────────────────────────────────────────────────────────────────────

[emp.plugsurfing]                     # FILL IN: a name of your choice
url = "https://dev-api.plugsurfing.com/api/v4/request"
partner_identifier = "FILL-IN-at-least-16-characters"   # FILL IN: random, hard to guess, told to the EMP
api_key_file = "/etc/cdc-pusher/plugsurfing.key"        # FILL IN: one line, readable by the daemon alone
confirm_cpos = "manual"               # "automatic", if you are the only CPO

[emp.plugsurfing.cpos]                # your internal identifier = cpo-id, the prefix of its EVSE ids
{cpos}
"""

NO_GUESS = """
# FILL IN: no table looked like one of charging stations with connectors. Say how to read yours:
# [source]
# stations = "SELECT … AS station_id, … FROM …"
# connectors = "SELECT … AS station_id, … AS evse_id, … FROM …"
#
# [[source.watch]]
# table = "public.…"
# station = "…"
"""

WIDTH = 60  # characters of a line before its comment
CPOS = 20  # that are listed


def head(dsn: str, recognised: str, missing: Sequence[str]) -> str:
    """The beginning: what was recognised, what is to be filled in, and the database."""
    filled_in = f"# To be filled in (search for {FILL_IN}):\n{listed(missing)}" if missing else ""
    return HEAD.format(recognised=recognised, missing=filled_in, dsn=quoted(dsn))


def listed(lines: Sequence[str]) -> str:
    """Comments, a line each, whatever names are in them."""
    return "".join(f"#   - {comment(line)}\n" for line in lines)


def emp(cpos: Sequence[str]) -> str:
    """The section of an EMP, with the internal identifiers that the stations have."""
    return EMP.format(cpos=cpo_lines(cpos))


def cpo_lines(cpos: Sequence[str]) -> str:
    """Commented lines for identifiers of CPOs: without a cpo-id none is to be sent."""
    found = [f'# {quoted(cpo)} = "DE*ABC"   # {FILL_IN}' for cpo in cpos[:CPOS]]
    return "\n".join(found) or f'# "…" = "DE*ABC"   # {FILL_IN}'


def source(draft: Draft, unknown: Words) -> str:
    """`[source]` with all that was guessed."""
    lines = ["", "# ── how to read the stations " + "─" * 91, "", "[source]"]
    lines += [f"# These might be meant as well: {comment(', '.join(draft.others))}"] if draft.others else []
    lines += ["stations = " + multiline(_query(draft.stations)), "connectors = " + multiline(_query(draft.connectors))]
    for watch in draft.watches:
        lines += ["", *_watch(watch)]
    return "\n".join(lines) + "\n" + maps(unknown)


def maps(unknown: Words) -> str:
    """Value maps for words that nobody knows; nothing if there are none."""
    lines: list[str] = []
    for name, words in unknown.items():
        if words:
            lines += ["", f"[source.{name}]   # {FILL_IN}: words that OIOI does not know", *(f'# {quoted(word)} = "…"' for word in words)]
    return "".join(f"{line}\n" for line in lines)


def _query(query: Query) -> str:
    items = [f"  {item.value} AS {item.name}{',' * (item is not query.items[-1])}" for item in query.items]
    width = min(max(map(len, items)), WIDTH)
    selected = "\n".join(f"{line:<{width}}  -- {comment(item.comment)}" for line, item in zip(items, query.items, strict=True))
    return f"SELECT\n{selected}\nFROM {query.source}\n"


def _watch(watch: Watched) -> list[str]:
    columns = f"columns = [{', '.join(map(quoted, watch.columns))}]"
    return ["[[source.watch]]", f"table = {string(watch.table)}", columns, f"station = {string(watch.station)}"]


def multiline(text: str) -> str:
    """A multi-line TOML string: literal where that is possible, so that people can read it."""
    if "'''" in text or any(ord(c) < 32 and c != "\n" for c in text) or "\x7f" in text:
        return quoted(text)
    return f"'''\n{text}'''"


def string(text: str) -> str:
    """A TOML string, literal where that is possible: SQL has many double quotes.

    >>> print(string('"a"'), string("it's"))
    '"a"' "it's"
    """
    return f"'{text}'" if "'" not in text and text.isprintable() else quoted(text)


def quoted(text: str) -> str:
    """A TOML basic string.

    >>> print(quoted('a"b\\\\ü\\x7f'))
    "a\\"b\\\\ü\\u007f"
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def comment(text: str) -> str:
    """Text that cannot end a comment of SQL or TOML."""
    return "".join(c if c.isprintable() else " " for c in text)
