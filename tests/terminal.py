"""A command of ours on a terminal of a given size: what it shows, what is typed, how it leaves the terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")
PATIENCE_S = 40.0


class Terminal:
    """One command; a `with` block kills it, if it still runs."""

    def __init__(
        self,
        arguments: Sequence[str],
        directory: Path,
        *,
        stdout: IO[bytes] | None = None,
        columns: int = 80,
        lines: int = 50,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`stdout`: where that goes, if not to the terminal as well."""
        self.said = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        surroundings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdc_pusher", *arguments],
            stdin=theirs,
            stdout=stdout or theirs,
            stderr=theirs,
            cwd=directory,
            env={**surroundings, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parent.parent), **(environment or {})},
            preexec_fn=_take_terminal,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """All that it has shown, without escapes."""
        return ESCAPE.sub("", self.said).replace("\r", "")

    def until(self, pattern: str) -> str:
        """Wait until something new is shown that matches; returns the text of it."""
        begin, deadline = len(self.said), time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, ESCAPE.sub("", self.said[begin:]), re.DOTALL)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} was not shown:\n{self.said[begin:][-4000:]}"
            assert self._read(), f"ended without {pattern!r}:\n{self.said}"
        return found[0]

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Wait until it has ended; returns its exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        """Wait for something, though not for long; False: the other side has closed."""
        if not select.select([self._ours], [], [], 0.2)[0]:
            return True
        try:
            part = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            return False
        self.said += part.decode(errors="replace")
        return bool(part)


def _take_terminal() -> None:
    """Be a session with this terminal, so that Ctrl-C in it is a signal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
