"""pgqueuer: 64 jobs at once, taken in the largest batches that it allows then."""

import json
import sys

import aiohttp
import asyncpg  # type: ignore[import-not-found]  # in an environment of its own
import uvloop
from pgqueuer import PgQueuer  # type: ignore[import-not-found]  # in an environment of its own
from pgqueuer.db import AsyncpgDriver  # type: ignore[import-not-found]  # in an environment of its own
from pgqueuer.models import Job  # type: ignore[import-not-found]  # in an environment of its own
from pgqueuer.queries import Queries  # type: ignore[import-not-found]  # in an environment of its own

CONCURRENCY = 64


async def install() -> None:
    await Queries(AsyncpgDriver(await asyncpg.connect())).install()


async def run(url: str) -> None:
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect()))
    async with aiohttp.ClientSession(raise_for_status=True) as client:

        async def push(job: Job) -> None:
            message = {"connector-post-status": {**json.loads(job.payload), "partner-identifier": "bench-partner-0001"}}
            async with client.post(url, json=message) as answer:
                await answer.read()

        queue.entrypoint("push")(push)
        await queue.run(batch_size=CONCURRENCY // 2, max_concurrent_tasks=CONCURRENCY)


if __name__ == "__main__":
    uvloop.run(install() if sys.argv[1] == "install" else run(sys.argv[2]))
