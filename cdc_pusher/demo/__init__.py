"""`cdc-pusher demo`: the whole thing on an embedded Postgres and a sandbox EMP, from the full load to a comparison of both sides.

    fleet       generates a CPO's stations        stage      what it plays on        processes  that end with the demo
    traffic     what the CPO does to its tables   play       the acts                compare    the oracle, and latencies

It leaves nothing running and nothing behind: not after Ctrl-C, SIGTERM or a hangup, and once Postgres runs
not after `kill -9` either.
"""

import asyncio
import signal
from pathlib import Path

from rich.console import Console

from cdc_pusher.demo import traffic
from cdc_pusher.demo.fleet import CPOS, Fleet, generate
from cdc_pusher.demo.play import Play
from cdc_pusher.demo.processes import last_words
from cdc_pusher.demo.stage import postgres, set_stage
from cdc_pusher.errors import CdcPusherError

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BLOCKED_S = 0.05


async def run(*, stations: int, seed: int) -> int:
    """Play the demo with so many stations; returns the number of differences at the end. Raises `CdcPusherError` if it cannot be played."""
    loop = asyncio.get_running_loop()
    performance = asyncio.create_task(_perform(generate(stations, seed=seed), seed), name="demo")
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        if len(received) == 1:  # a second one must not break off the clearing up
            performance.cancel()

    for number in _ENDS:
        loop.add_signal_handler(number, end, number)
    try:
        return await performance
    except (asyncio.CancelledError, CdcPusherError) as error:
        await asyncio.sleep(_BLOCKED_S)  # Ctrl-C also ends an initdb; then the error comes sooner than the signal
        if received:
            raise CdcPusherError(f"ended by {received[0].name}; nothing is left behind") from error
        raise
    finally:
        for number in _ENDS:
            loop.remove_signal_handler(number)


async def _perform(fleet: Fleet, seed: int) -> int:
    console = Console()
    title = f"{len(fleet.stations):,} stations in {fleet.cities} cities, {fleet.connectors:,} connectors, {len(CPOS)} CPOs (seed {seed})"
    console.print(f"cdc-pusher demo: {title}", soft_wrap=True, highlight=False)
    async with postgres() as (directory, dsn):
        try:
            async with set_stage(directory, dsn, CPOS) as scene:
                await traffic.create_tables(scene.conn)
                await traffic.build(scene.conn, fleet.stations)
                await scene.migrate()
                play = Play(stage=scene, fleet=fleet, traffic=traffic.Traffic(dsn, seed=seed), console=console)
                play.say("Postgres 18 and a strict sandbox EMP run, the CPO's tables are filled, cdc-pusher has migrated")
                differences = await play.run()
        except CdcPusherError:
            _tell_last_words(directory)
            raise
        if differences:
            _tell_last_words(directory)
    return differences


def _tell_last_words(directory: Path) -> None:
    Console(stderr=True).print(last_words(directory), soft_wrap=True, markup=False, highlight=False)
