"""The processes of a benchmark, which end with it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOP_S = 20.0


@contextmanager
def cdc_pusher(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`cdc-pusher` with these arguments as a process that is told to end, and ended if it does not."""
    with subprocess.Popen([sys.executable, "-m", "cdc_pusher", *arguments], text=True, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def configured(path: Path, text: str) -> Path:
    """Write a configuration, which holds the API key of an EMP: for its owner alone."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path
