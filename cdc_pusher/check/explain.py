"""Reads the plans of `EXPLAIN (VERBOSE, FORMAT JSON)`: which relations a query goes through from end to end. Pure.

The plans are to be made with `enable_seqscan = off`: a relation that is read whole even then has no index that serves, however small the
relation of today is and whatever the planner would do with it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Node = Mapping[str, Any]

_CONDITIONS = ("Filter", "Join Filter", "Hash Cond", "Merge Cond")
_NAME = r'("(?:[^"]|"")+"|[^\W\d][\w$]*)'
_CAST = r"::[a-z][a-z ]*(?:\(\d+\))?"


class Scan(NamedTuple):
    """A relation that is read whole; `column` (quoted): what an index on it would be asked for, if that can be told."""

    schema: str
    relation: str
    column: str | None


def whole_reads(plan: Node, *, in_order: bool = False) -> Iterator[Scan]:
    """Every relation that is read from end to end; `in_order`: going along an index is no such thing, a LIMIT ends it."""
    for node, around in _nodes(plan):
        match node["Node Type"]:
            case "Seq Scan":
                yield _scan(node, around)
            case "Index Scan" | "Index Only Scan" if not in_order and not _is_narrow(node):
                yield _scan(node, around)
            case "Bitmap Heap Scan" if not any(_is_narrow(below) for below, _ in _nodes(node)):
                yield _scan(node, around)


def sorted_reads(plan: Node) -> Iterator[Scan]:
    """Every relation whose rows are all sorted before the first comes out."""
    for node, _ in _nodes(plan):
        if node["Node Type"] == "Sort":
            yield from (_scan(below, around) for below, around in _nodes(node) if "Relation Name" in below)


def relations(plan: Node) -> set[tuple[str, str]]:
    """Schema and name of everything that the query reads."""
    return {(node["Schema"], node["Relation Name"]) for node, _ in _nodes(plan) if "Relation Name" in node and "Schema" in node}


def _is_narrow(node: Node) -> bool:
    """Whether the index is asked for more than that there is a value."""
    return re.sub(r"\S+ IS NOT NULL\)", "", node.get("Index Cond", "")).strip("( AND)") != ""


def _nodes(node: Node, around: Sequence[str] = ()) -> Iterator[tuple[Node, Sequence[str]]]:
    """Each node with its conditions, its own first, then those of the nodes above."""
    around = (*(node[key] for key in _CONDITIONS if key in node), *around)
    yield node, around
    for below in node.get("Plans", ()):
        yield from _nodes(below, around)


def _scan(node: Node, around: Sequence[str]) -> Scan:
    return Scan(node["Schema"], node["Relation Name"], _column(node["Alias"], around))


def _column(alias: str, conditions: Sequence[str]) -> str | None:
    """The first column of this alias that something is compared with, as it stands or cast.

    >>> _column("c", ["((c.kind = 'x'::text) AND ((c.site)::text = ANY ('{1}'::text[])))"]), _column("c", ["(s.id = c.site)"])
    ('site', 'site')
    >>> _column("c", ["(lower(c.site) = ANY ('{1}'::text[]))"]), _column("c", ["(('S'::text || c.site) = ANY ('{1}'::text[]))"])
    (None, None)
    """
    name = rf'(?:{re.escape(alias)}|"{re.escape(alias)}")\.{_NAME}'
    column = rf'(?:(?<![\w."]){name}|(?<![\w"])\({name}\){_CAST})'
    for pattern in (rf"{column} = ANY", rf"{column} = ", rf" = {column}"):
        for condition in conditions:
            if found := re.search(pattern, condition):
                return found[1] or found[2]
    return None
