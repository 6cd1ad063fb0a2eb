"""Setting up CPOs: the first of the three steps of sending POI data. An EMP is told of every CPO before the first of its stations is sent.

The stations say which CPOs there are, the configuration says what each is called at an EMP, and the table `cdc_pusher.cpo` since when the
EMP is known to know it. Until then capture holds the stations of that CPO.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cdc_pusher import enqueue, revision
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect
from cdc_pusher.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpo:
    """One CPO as one EMP is concerned; `cpo` is the CPO's internal identifier (None: stations without), `name` if the mapping has it."""

    emp: str
    cpo: str | None
    name: str | None
    cpo_id: str | None
    stations: int
    confirmed_at: datetime | None

    @property
    def row(self) -> dict[str, Any]:
        return asdict(self)


async def listing(settings: Settings, emps: Sequence[str]) -> list[Cpo]:
    """The CPOs that occur in the stations or in the configuration, by EMP, those with most stations first.

    Works before there is a schema `cdc_pusher`. Raises `MappingError`.
    """
    async with await connect(settings.database.dsn, "cpo") as conn:
        confirmed = await _confirmed(conn)
        source = await Source.open(conn, settings.source, settings.only)
        whose = {None, *(emp for emp in emps if emp in settings.only)}
        stations = {emp: {row["cpo"]: row for row in await source.cpos(emp)} for emp in whose}
    found = []
    for emp in emps:
        in_stations = stations.get(emp, stations[None])
        cpo_ids = settings.emp[emp].cpos
        for cpo in [*in_stations, *(cpo for cpo in sorted(cpo_ids) if cpo not in in_stations)]:
            row = in_stations.get(cpo, {"name": None, "stations": 0})
            cpo_id = cpo_ids.get(cpo) if cpo is not None else None
            since = confirmed.get((emp, cpo, cpo_id))
            found.append(Cpo(emp=emp, cpo=cpo, name=row["name"], cpo_id=cpo_id, stations=row["stations"], confirmed_at=since))
    return found


async def confirm(settings: Settings, emp: str, cpos: Sequence[str]) -> list[str]:
    """Note that the EMP knows these CPOs, which are in the configuration; returns those that were not confirmed before."""
    async with await connect(settings.database.dsn, "cpo") as conn:
        await revision.require_current(conn)
        return await enqueue.confirm_cpos(conn, settings, emp, cpos)


async def _confirmed(conn: Connection) -> dict[tuple[str, str | None, str | None], datetime]:
    """Since when which EMP knows which CPO by which cpo-id."""
    if (await (await conn.execute("SELECT WHERE to_regclass('cdc_pusher.cpo') IS NOT NULL")).fetchone()) is None:
        return {}
    rows = await conn.execute("SELECT emp, cpo, cpo_id, confirmed_at FROM cdc_pusher.cpo WHERE confirmed_at IS NOT NULL")
    return {(row["emp"], row["cpo"], row["cpo_id"]): row["confirmed_at"] async for row in rows}
