"""An HTTP client and nothing else: so many prepared messages, 64 at once, or as many as it manages in ten seconds.

Prints its messages a second and its processor time for each, as JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
import uvloop
from pyreqwest.client import ClientBuilder  # type: ignore[import-not-found, unused-ignore]  # in an environment of its own

CONCURRENCY = 64
LIMIT_S = 10.0
HEADERS = {"content-type": "application/json"}
Post = Callable[[bytes], Awaitable[None]]


async def with_aiohttp(url: str, bodies: list[bytes]) -> dict[str, float]:
    async with aiohttp.ClientSession(raise_for_status=True) as client:

        async def post(body: bytes) -> None:
            async with client.post(url, data=body, headers=HEADERS) as answer:
                await answer.read()

        return await measured(post, bodies)


async def with_httpx(url: str, bodies: list[bytes]) -> dict[str, float]:
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx.AsyncClient(limits=limits) as client:

        async def post(body: bytes) -> None:
            (await client.post(url, content=body, headers=HEADERS)).raise_for_status()

        return await measured(post, bodies)


async def with_pyreqwest(url: str, bodies: list[bytes]) -> dict[str, float]:
    async with ClientBuilder().error_for_status(True).build() as client:

        async def post(body: bytes) -> None:
            answer = await client.post(url).headers(HEADERS).body_bytes(body).build().send()
            await answer.bytes()

        return await measured(post, bodies)


async def measured(post: Post, bodies: list[bytes]) -> dict[str, float]:
    began, spent = time.perf_counter(), time.process_time()
    left = iter(bodies)

    async def work() -> int:
        done = 0
        for body in left:
            await post(body)
            done += 1
            if time.perf_counter() > began + LIMIT_S:
                break
        return done

    done = sum(await asyncio.gather(*(work() for _ in range(CONCURRENCY))))
    rate = done / (time.perf_counter() - began)
    return {"rate": rate, "cpu_us": 1e6 * (time.process_time() - spent) / done}


def message(n: int) -> bytes:
    status = {"connector-id": f"DE*8PS*E{n}", "status": "Occupied", "partner-identifier": "bench-partner-0001"}
    return json.dumps({"connector-post-status": status}).encode()


CLIENTS = {"aiohttp": with_aiohttp, "httpx": with_httpx, "pyreqwest": with_pyreqwest}

if __name__ == "__main__":
    client, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    found = uvloop.run(CLIENTS[client](url, [message(n) for n in range(count)]))
    sys.stdout.write(json.dumps(found) + "\n")
