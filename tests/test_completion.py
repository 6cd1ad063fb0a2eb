"""What a shell offers at Tab: asked in bash itself, and of the others by what they ask the program."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

CONFIG = "\n".join(
    f'[emp.{name}]\nurl = "https://emp.example/"\npartner_identifier = "0123456789abcdef"\n'
    for name in ("plugsurfing", "hubject", "has-to-be")
)
STARTED = Path(sys.executable).with_name("cdc-pusher")
BASH = """
source <(_CDC_PUSHER_COMPLETE=source_bash cdc-pusher)
complete -p cdc-pusher
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_cdc_pusher_completion cdc-pusher
echo "${COMPREPLY[*]}"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With a configuration whose database does not answer."""
    (tmp_path / "cdc-pusher.toml").write_text(f'[database]\ndsn = "host=192.0.2.1 dbname=cpo"\n{CONFIG}')
    (tmp_path / "other.toml").write_text(CONFIG.replace("hubject", "hasty"))
    return tmp_path


def asked(directory: Path, *command: str, **environment: str) -> str:
    """What a program says on standard output; it has to be content, and to say nothing else."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("CDC_PUSHER_", "PG"))}
    path = f"{STARTED.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=directory, env={**surroundings, "PATH": path, **environment}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("st",), "status"),
        (("outbox", ""), "retry list show"),
        (("status", "--wat"), "--watch"),
        (("status", "--emp", "h"), "has-to-be hubject"),
        (("status", "--config", "other.toml", "--emp", "h"), "has-to-be hasty"),
        (("emp", "pause", "plug"), "plugsurfing"),
        (("outbox", "list", "--state", "he"), "held"),
        (("outbox", "list", "--state", ""), "pending in_flight delivered held rejected"),
    ],
    ids=str,
)
def test_bash_offers(directory: Path, words: tuple[str, ...], offered: str) -> None:
    said = asked(directory, "bash", "--norc", "-c", BASH, "bash", "cdc-pusher", *words).splitlines()
    assert said[0] == "complete -o default -F _cdc_pusher_completion cdc-pusher"
    assert sorted(" ".join(said[1:]).split()) == sorted(offered.split())


@pytest.mark.parametrize(
    ("shell", "environment"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "cdc-pusher status --emp hub"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "cdc-pusher status --emp hub", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_zsh_and_fish_are_answered(directory: Path, shell: str, environment: Mapping[str, str]) -> None:
    assert "cdc-pusher" in asked(directory, "cdc-pusher", _CDC_PUSHER_COMPLETE=f"source_{shell}")
    assert "hubject" in asked(directory, "cdc-pusher", _CDC_PUSHER_COMPLETE=f"complete_{shell}", **environment)


@pytest.mark.parametrize("content", ["nonsense", "[emp.plug]\nspeed = 3\n", "[emp.\xff]"])
def test_configuration_that_is_wrong_completes_nothing_and_says_nothing(directory: Path, content: str) -> None:
    (directory / "cdc-pusher.toml").write_bytes(content.encode("latin-1"))
    asking = {"_CDC_PUSHER_COMPLETE": "complete_bash", "COMP_WORDS": "cdc-pusher status --emp p", "COMP_CWORD": "3"}
    assert asked(directory, "cdc-pusher", **asking).strip() == ""
