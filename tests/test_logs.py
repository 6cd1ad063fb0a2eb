"""What the daemon's log looks like, from a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
import structlog
from cdc_pusher import logs
logs.configure({level!r})
log = structlog.get_logger("cdc_pusher.test")
{lines}
"""


def said(lines: str, level: str = "info", *, journal: Path | None = None) -> list[str]:
    """The lines of standard error after this was run; `journal`: a file that the program is told is the journal."""
    program = [sys.executable, "-c", SAY.format(level=level, lines=lines)]
    if journal is None:
        done = subprocess.run(program, check=True, capture_output=True, text=True)
        return done.stderr.splitlines()
    with journal.open("wb") as stderr:
        found = os.fstat(stderr.fileno())
        subprocess.run(program, check=True, stderr=stderr, env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    return journal.read_text().splitlines()


def test_lines_are_json_with_time_level_and_fields() -> None:
    (line,) = said("log.warning('it rains', emp='alpha', n=3)")
    found = json.loads(line)
    assert found.pop("timestamp").endswith("Z")
    assert found == {"event": "it rains", "level": "warning", "emp": "alpha", "n": 3}


def test_journal_is_told_the_priority(tmp_path: Path) -> None:
    lines = said("log.info('a'); log.warning('b'); log.error('c'); log.critical('d')", journal=tmp_path / "journal")
    assert [line.partition("{")[0] for line in lines] == ["<6>", "<4>", "<3>", "<2>"]
    assert json.loads(lines[0].removeprefix("<6>"))["event"] == "a"


@pytest.mark.parametrize(("level", "told"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_is_kept_to(level: str, told: int) -> None:
    assert len(said("log.debug('a'); log.info('b'); log.warning('c'); log.error('d')", level)) == told


def test_what_repeats_itself_is_told_a_few_times_and_then_counted() -> None:
    lines = said(
        "logs.WINDOW_S = 1.0\n"
        "for n in range(100): log.error('refused', emp='alpha', n=n)\n"
        "log.error('refused', emp='beta')\n"
        "log.error('something else', emp='alpha')\n"
        "import time; time.sleep(1.1)\n"
        "log.error('refused', emp='alpha')"
    )
    found = [json.loads(line) for line in lines]
    assert [f.get("n") for f in found] == [0, 1, 2, 3, 4, None, None, None]
    assert found[-1]["not_told"] == 95
    assert all("not_told" not in f for f in found[:-1])


def test_level_can_be_changed() -> None:
    lines = said("log.debug('a'); logs.configure('debug'); log.debug('b'); logs.configure('error'); log.warning('c')")
    assert [json.loads(line)["event"] for line in lines] == ["b"]


def test_everything_is_told_at_debug() -> None:
    assert len(said("for n in range(100): log.debug('captured', emp='alpha', n=n)", "debug")) == 100
