"""Records docs/session.svg: a few commands on an embedded Postgres with a sandbox EMP and a daemon, as they look on a terminal.

What stands there is what the commands have printed. Beside that, only what is typed is written here, and what cannot be waited for is
taken from the demo's stage. Run it with `make session`.
"""

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import select
import shlex
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from cdc_pusher.demo import fleet, traffic
from cdc_pusher.demo.processes import last_words
from cdc_pusher.demo.stage import Stage, postgres, set_stage
from cdc_pusher.model import Station

TARGET = Path(__file__).resolve().with_name("session.svg")
WIDTH = 100  # columns
LINES = 30
STATIONS = 60
PATIENCE_S = 60.0
BROKEN = 3  # stations without a zip code, so that there is something to see
QUIET = """
SELECT
WHERE NOT EXISTS (SELECT FROM cdc_pusher.change)
  AND NOT EXISTS (SELECT FROM cdc_pusher.outbox WHERE state = 'in_flight' OR next_attempt_at IS NOT NULL)
  AND EXISTS (SELECT FROM cdc_pusher.emp WHERE full_load_completed_at IS NOT NULL AND walk IS NULL)
"""
CLEAR = "\x1b[H"
DAEMON = "cpo/4711/506d81"  # what daemons are called in the picture: the host where it was made is nobody's concern
PROMPT = Text("$ ", style="bold green")
THEME = TerminalTheme(
    (30, 32, 38),
    (215, 218, 224),
    [(46, 52, 64), (224, 108, 117), (126, 191, 116), (222, 184, 98), (97, 160, 232), (190, 132, 214), (86, 182, 194), (171, 178, 191)],
    [(92, 99, 112), (240, 128, 136), (150, 210, 140), (240, 205, 120), (125, 180, 245), (210, 155, 232), (110, 205, 216), (255, 255, 255)],
)
# Fonts of the reader's own: nothing is fetched.
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
line-height: {line_height}px; white-space: pre }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
<rect fill="#1e2026" width="{terminal_width}" height="{terminal_height}" rx="8" />
<g transform="translate(9, 9) scale(0.985)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def ran(command: str, directory: Path, until: Callable[[str], bool] | None = None) -> str:
    """What a command shows on a terminal; it is interrupted as soon as `until` says that it has shown enough."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, WIDTH, 0, 0))
    surroundings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    program, *arguments = shlex.split(command)
    assert program == "cdc-pusher"
    with subprocess.Popen(
        [sys.executable, "-m", "cdc_pusher", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,  # progress
        cwd=directory,
        env={**surroundings, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other side has closed
            while select.select([ours], [], []) and (part := os.read(ours, 65536)):
                shown += part
                if until is not None and until(shown.decode(errors="ignore")):
                    process.terminate()
                    break
    os.close(ours)
    name = re.compile(rf"{re.escape(socket.gethostname())}/\d+/[0-9a-f]+")
    return name.sub(lambda found: DAEMON.ljust(len(found[0])), shown.decode(errors="ignore").replace("\r\n", "\n"))


def last_picture(shown: str) -> str:
    """The last whole picture that a live view has drawn."""
    *_, whole, _ = shown.split(CLEAR)
    return re.sub(r"\x1b\[\?\d+[hl]", "", whole).rstrip()


class Session:
    """What has been typed and shown so far."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")

    async def show(self, command: str) -> None:
        """Type a command, and show all that it prints."""
        self._write(command, await asyncio.to_thread(ran, command, self._directory))

    async def watch(self, command: str, *words: str) -> None:
        """Type a command, and show the first picture that has all these words."""

        def enough(shown: str) -> bool:
            return shown.count(CLEAR) > 1 and all(re.search(word, last_picture(shown)) for word in words)

        self._write(command, last_picture(await asyncio.to_thread(ran, command, self._directory, enough)))

    def _write(self, command: str, shown: str) -> None:
        self._console.print(PROMPT + Text(command, style="bold"))
        self._console.print(Text.from_ansi(shown.rstrip()), soft_wrap=True)
        self._console.print()

    def svg(self) -> str:
        """All of it, as a picture."""
        svg = self._console.export_svg(theme=THEME, code_format=FORMAT, unique_id="session")
        return "".join(line.rstrip() + "\n" for line in svg.splitlines())


async def quiet(stage: Stage) -> None:
    """Wait until the full load is over and the daemon has done all that it can do: what waits for a held station is not on its way."""
    async with asyncio.timeout(PATIENCE_S):
        while await (await stage.conn.execute(QUIET)).fetchone() is None:  # noqa: ASYNC110  # the database does not call
            await asyncio.sleep(0.1)


async def play(stage: Stage, cpo: Sequence[Station]) -> str:
    """The session; returns the picture."""
    session = Session(stage.directory)
    os.chdir(stage.directory)
    stage.config.write_text(stage.config.read_text().replace(f"{stage.directory}/", ""))  # no path of this machine in the picture
    await traffic.create_tables(stage.conn)
    await traffic.build(stage.conn, cpo)
    await stage.conn.execute("UPDATE station SET zip = '' WHERE id IN (SELECT id FROM station ORDER BY id LIMIT %s)", [BROKEN])
    await session.show("cdc-pusher check")
    await session.show("cdc-pusher migrate")
    async with stage.daemon():
        await quiet(stage)
        flow = traffic.Traffic(stage.dsn, seed=1)
        async with flow.flowing():
            await session.watch("cdc-pusher status --watch", rf"{STATIONS - BROKEN} of {STATIONS}", r"│ +\d\d\.\d\s", "Problems by reason")
        await quiet(stage)
        await session.show("cdc-pusher outbox list --state held")
    return session.svg()


async def main() -> None:
    """Set the stage, play, and write the picture."""
    stations = fleet.generate(STATIONS, seed=1, spare=0).stations
    async with postgres() as (directory, dsn), set_stage(directory, dsn, fleet.CPOS) as stage:
        try:
            TARGET.write_text(await play(stage, stations), encoding="utf-8")
        except BaseException:
            print(last_words(directory), file=sys.stderr)  # noqa: T201
            raise


if __name__ == "__main__":
    asyncio.run(main())
