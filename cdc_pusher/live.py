"""`cdc-pusher status --watch`: a terminal view that looks again and again, from one connection, until it is ended.

A database that goes away is told in the view, above what it said last, and tried again; only what fails at the very first look is raised.
Looking goes through the outbox, so a view takes no more than `SHARE` of the time for it, however often it is asked to.
"""

import asyncio
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cdc_pusher import glance, report, triggers
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect, one_line
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.horizon import Pace
from cdc_pusher.report import Row
from cdc_pusher.show import text

SHARE = 0.2  # of the time at most goes into looking
DRAWN_PER_S = 4  # so that one sees the age of what stands there grow
PATIENCE_S = 3.0  # beyond the pause; after that the view says that there is no answer


async def look(conn: Connection, settings: Settings, emp: str | None) -> Row:
    """What `cdc-pusher status` reports: `report.status`, `triggers` that are wrong, and for each EMP whether it `is_late`.

    Late is what readiness means by it: older than `late_after_s` on its way, what waits for a message that is held not counted.
    """
    found, now = await report.status(conn, emp), datetime.now(UTC)
    oldest = {(row["emp"], row["oldest_change_at"]) for row in await report.backlog(conn) if row["oldest_change_at"] is not None}
    for row in found["emps"]:
        configured, ages_s = settings.emp.get(row["emp"]), [(now - at).total_seconds() for name, at in oldest if name == row["emp"]]
        row["late_after_s"] = configured.late_after_s if configured else None
        row["is_late"] = configured is not None and max(ages_s, default=0.0) > configured.late_after_s
    return {**found, "triggers": await triggers.verify(conn, settings.source.watch)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """One look: `at` by the database's clock, `began_s` by our monotonic one.

    `per_s`: how many stations and EVSEs each EMP has accepted something of, a second, since the look before.
    """

    at: datetime
    began_s: float
    took_s: float
    found: Row
    per_s: Mapping[str, float]


@dataclass(slots=True)
class View:
    """What is drawn; rich asks for it several times a second, from a thread of its own."""

    interval_s: float
    last: Glance | None = None
    before: Glance | None = None
    trouble: str | None = None
    pause_s: float = 0.0
    _pace: Pace = field(default_factory=lambda: Pace(share=SHARE))

    def __post_init__(self) -> None:
        self.pause_s = self.interval_s

    def saw(self, glance: Glance) -> None:
        """Another look has succeeded."""
        self.before, self.last, self.trouble = self.last, glance, None
        self.pause_s = max(self.interval_s, self._pace.pause_s(glance.took_s))

    def __rich__(self) -> Group:
        return Group(*self._lines(time.monotonic()), *self._parts())

    def _lines(self, now_s: float) -> Iterator[Text]:
        """When this was so, and whether it may have changed since."""
        if self.last is None:
            yield Text("the first look …")
            return
        age_s = now_s - self.last.began_s
        yield Text(f"{text(self.last.at)} UTC, {age_s:.0f} s ago · every {self.pause_s:.3g} s · Ctrl-C ends", style="dim")
        if self.trouble is not None:
            yield Text(f"! no answer: {text(self.trouble)}; tried again", style="bold red")
        elif age_s > self.pause_s + PATIENCE_S:
            yield Text("! no answer yet", style="bold red")
        yield Text()

    def _parts(self) -> Iterator[RenderableType]:
        if self.last is not None:
            before = self.before.found if self.before else None
            yield from glance.parts(self.last.found, before=before, per_s=self.last.per_s)


async def watch(settings: Settings, emp: str | None, *, interval_s: float, console: Console) -> None:
    """Draw until this is cancelled, as SIGTERM does; afterwards the terminal is as it was. Raises what the first look raises."""
    view, conn = View(interval_s), None
    loop, drawing = asyncio.get_running_loop(), asyncio.current_task()
    assert drawing is not None
    loop.add_signal_handler(signal.SIGTERM, drawing.cancel)
    try:
        conn = await connect(settings.database.dsn, "status")
        view.saw(await _glance(conn, settings, emp, None))
        with Live(
            view, console=console, screen=True, refresh_per_second=DRAWN_PER_S, redirect_stdout=False, redirect_stderr=False
        ) as drawn:
            while True:
                await asyncio.sleep(view.pause_s)
                conn = await _look_again(conn, view, settings, emp)
                drawn.refresh()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        if conn is not None:
            await conn.close()


async def _look_again(conn: Connection | None, view: View, settings: Settings, emp: str | None) -> Connection | None:
    """Look once more; returns the connection to look with the next time, None if there is none."""
    try:
        conn = conn or await connect(settings.database.dsn, "status")
        view.saw(await _glance(conn, settings, emp, view.last))
    except (psycopg.Error, CdcPusherError) as error:
        view.trouble = one_line(error)
        if conn is not None:
            await conn.close()
        return None
    return conn


async def _glance(conn: Connection, settings: Settings, emp: str | None, before: Glance | None) -> Glance:
    began_s = time.monotonic()
    accepted = await report.accepted_since(conn, before.at if before else None)
    found = await look(conn, settings, emp)
    passed_s = (accepted["at"] - before.at).total_seconds() if before else 0.0
    per_s = {name: count / passed_s for name, count in accepted["messages"].items()} if passed_s > 0 else {}
    return Glance(at=accepted["at"], began_s=began_s, took_s=time.monotonic() - began_s, found=found, per_s=per_s)
