"""procrastinate: 64 jobs at once, which are deleted when they have succeeded."""

import asyncio
import sys
from typing import Any

import aiohttp
from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]  # in an environment of its own

CONCURRENCY = 64
app = App(connector=PsycopgConnector(min_size=10, max_size=10))


async def install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def run(url: str) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as client:

        async def push(payload: dict[str, Any]) -> None:
            message = {"connector-post-status": {**payload, "partner-identifier": "bench-partner-0001"}}
            async with client.post(url, json=message) as answer:
                await answer.read()

        app.task(name="push", queue="push")(push)
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="successful")


if __name__ == "__main__":
    asyncio.run(install() if sys.argv[1] == "install" else run(sys.argv[2]))
