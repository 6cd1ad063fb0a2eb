"""What stands in the pages of docs/: their headings and fenced blocks, in order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
_PART = re.compile(
    r"^(?P<level>#{1,6}) +(?P<heading>.+?) *$|^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: where it stands, what it is written in, and the text that follows it up to the next block or heading."""

    page: str
    line: int
    heading: str
    language: str
    text: str
    after: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    parts, heading = list(_PART.finditer(text)), ""
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        if part["heading"]:
            heading = part["heading"]
            continue
        lines = part["text"].splitlines()
        yield Block(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, part.start()) + 1,
            heading=heading,
            language=part["language"],
            text="\n".join(line.removeprefix(part["indent"]) for line in lines),
            after=text[part.end() : following.start() if following else len(text)],
        )


def table(text: str) -> list[list[str]]:
    r"""The cells of the first table in a text, its header first.

    >>> table("so:\n\n| a | b |\n|---|---|\n| 1 | E\\*2 |\n\nand")
    [['a', 'b'], ['1', 'E*2']]
    """
    rows = re.search(r"^\|.*(?:\n\|.*)+", text, re.MULTILINE)
    lines = rows[0].splitlines() if rows else []
    cells = [[cell.strip().replace("\\*", "*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return cells[:1] + cells[2:]
