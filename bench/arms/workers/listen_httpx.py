"""The script that one would write first: LISTEN, and a POST for each notification, with httpx."""

import asyncio
import json
import sys

import httpx
import psycopg

CONCURRENCY = 64
KEPT = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)


async def run(url: str) -> None:
    semaphore = asyncio.Semaphore(CONCURRENCY)
    sending: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(limits=KEPT) as client, await psycopg.AsyncConnection.connect(autocommit=True) as conn:

        async def push(payload: str) -> None:
            message = {"connector-post-status": {**json.loads(payload), "partner-identifier": "bench-partner-0001"}}
            async with semaphore:
                (await client.post(url, json=message)).raise_for_status()

        await conn.execute("LISTEN push")
        async for notify in conn.notifies():
            task = asyncio.create_task(push(notify.payload))
            sending.add(task)
            task.add_done_callback(sending.discard)


if __name__ == "__main__" and sys.argv[1] == "run":
    asyncio.run(run(sys.argv[2]))
