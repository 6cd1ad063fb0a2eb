"""Patches of the program, each of which breaks one invariant, and the kind of faults (with a seed) in whose runs that has to be noticed.

The first line of a patch says what it breaks.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent

CAUGHT_BY: Mapping[str, tuple[str, int]] = {
    "1-an-error-in-the-trigger-is-the-cpos": ("tables locked", 1),
    "2-changes-are-consumed-before-they-are-captured": ("killed in capture", 7),
    "3-a-claim-ends-before-its-request": ("EMP at fault", 1),
    "4-a-status-does-not-wait-for-its-station": ("EMP at fault", 1),
    "5-the-full-load-begins-anew-with-every-start": ("ended", 1),
    "6-what-cannot-be-sent-is-not-told-of": ("ended", 1),
    "7-one-emp-waits-for-another": ("one EMP hangs", 1),
    "8-every-answer-is-kept-in-memory": ("EMP far", 1),
    "9-the-key-is-in-an-error": ("EMP gone", 1),
}


def sentence(name: str) -> str:
    """What it breaks."""
    return (HERE / f"{name}.patch").read_text().partition("\n")[0]


def made(name: str, directory: Path) -> Path:
    """A checkout of the program with the patch in it."""
    checkout = directory / "checkout"
    for part in ("cdc_pusher", "migrations", "examples"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", str(HERE / f"{name}.patch")], cwd=checkout, check=True, env={**os.environ, "GIT_DIR": os.devnull})
    return checkout
