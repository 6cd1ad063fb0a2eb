"""The demo's stations with two EMPs: one that takes everything, one with which there is all kinds of trouble. For tests and screenshots."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import KEY, Rig, rig, until

from cdc_pusher.database import connect
from cdc_pusher.demo import traffic
from cdc_pusher.demo.fleet import CPOS, Fleet, generate
from cdc_pusher.sandbox import Sandbox, SandboxSettings

SEED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """`held`, `rejected`: a station each, at the EMP `roamer`; `url`: of the pages."""

    rigged: Rig
    url: str
    fleet: Fleet
    good: Sandbox
    bad: Sandbox
    held: str
    rejected: str


@asynccontextmanager
async def scene(dsn: str, directory: Path, stations: int = 120) -> AsyncIterator[Scene]:
    """Everything that can be told is told; what is wrong is wrong."""
    fleet = generate(stations, seed=SEED)
    held = fleet.stations[3].station_id
    async with AsyncExitStack() as stack:
        rigged = await stack.enter_async_context(rig(dsn, directory))
        good, bad = [await stack.enter_async_context(Sandbox(SandboxSettings(api_key=KEY))) for _ in range(2)]
        bad.set_faults([{"kind": "code", "code": 230, "match": "station", "times": 1}])
        rigged.monitoring, rigged.cpos = "127.0.0.1:0", CPOS
        rigged.add_emp("driveline", good)
        rigged.add_emp("roamer", bad, max_requests_per_second=400)
        async with await connect(dsn, "scene") as conn:
            await traffic.build(conn, fleet.stations)
        await rigged.sql("UPDATE station SET country = 'Neverland' WHERE id = %(id)s", id=held)
        await rigged.sql("UPDATE station SET name = '<b>\x1b[31m&amp; \"Ümläut\"</b>' WHERE id = %(id)s", id=fleet.stations[7].station_id)
        await rigged.ready_daemon()
        await rigged.quiet()
        rejected = await rigged.value("SELECT key FROM cdc_pusher.outbox WHERE state = 'rejected' AND kind = 'station'")
        yield Scene(rigged=rigged, url=await rigged.page(), fleet=fleet, good=good, bad=bad, held=held, rejected=rejected)


async def changes(scene: Scene, seconds: float) -> None:
    """Drivers plug in and leave."""
    async with traffic.Traffic(scene.rigged.dsn, seed=SEED).flowing():
        await asyncio.sleep(seconds)
    await scene.rigged.quiet()


async def fails(scene: Scene) -> None:
    """From now on one of the EMPs is down, while statuses change."""
    scene.bad.set_faults([{"kind": "http", "status": 503}])
    await changes_of_some(scene)
    await until(lambda: scene.bad.stats()["requests"] > 0, "the EMP is asked")


async def changes_of_some(scene: Scene) -> None:
    await scene.rigged.sql(
        "UPDATE connector SET status = 'Offline' WHERE station_id = ANY (%(ids)s)", ids=[s.station_id for s in scene.fleet.stations[10:40]]
    )
