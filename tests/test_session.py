"""The picture of a terminal session in README.md: it stands by itself, and tells nothing of where it was made."""

import re
import socket
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "session.svg"
SVG = "{http://www.w3.org/2000/svg}"


def test_picture_is_small_and_fetches_nothing() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert f"({PICTURE.relative_to(ROOT)})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"]*|@import|url\((?!#)", text) == [SVG.strip("{}")]


def test_picture_shows_what_was_typed_and_nothing_of_the_machine() -> None:
    words = "\n".join("".join(text.itertext()) for text in ElementTree.parse(PICTURE).iter(f"{SVG}text")).replace("\xa0", " ")
    for command in ("check", "migrate", "status --watch", "outbox list --state held"):
        assert f"cdc-pusher {command}" in words
    assert "/tmp" not in words
    assert not re.search(rf"\b{re.escape(socket.gethostname())}/", words)
