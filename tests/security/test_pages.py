"""The monitoring page is for machines: read-only, for this machine alone by default, and no page in a browser learns anything from it."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import KEY, rig, until
from served import Served

from cdc_pusher.config import MonitoringSettings
from cdc_pusher.sandbox import Sandbox, SandboxSettings

STRANGE = ("evil.example", "evil.example:9465", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example")
PATHS = ("/livez", "/readyz", "/metrics", "/readyz/plug")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as running:
        yield running


def ask(served: Served, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
    conn = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        conn.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = conn.getresponse()
        answer.read()
        return answer
    finally:
        conn.close()


def test_default_is_an_address_of_this_machine_alone() -> None:
    assert MonitoringSettings().listen.startswith("127.0.0.1:")


def test_page_is_not_to_be_reached_by_another_address_of_this_machine(served: Served) -> None:
    with socket.socket() as conn, pytest.raises(ConnectionRefusedError):
        conn.connect(("127.0.0.2", served.port))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_done_but_to_read(served: Served, method: str, path: str) -> None:
    assert ask(served, method, path).status == 405


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
@pytest.mark.parametrize("host", STRANGE)
def test_name_of_somebody_else_that_leads_here_is_refused(served: Served, path: str, host: str) -> None:
    """DNS rebinding: the browser believes that the answer is the other page's own."""
    assert ask(served, "GET", path, Host=host).status == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9465", "localhost", "LOCALHOST:9465", "[::1]:9465", "10.0.0.7", ""])
def test_address_and_localhost_are_answered(served: Served, host: str) -> None:
    assert ask(served, "GET", "/livez", Host=host).status == 200


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_page_of_another_site_cannot_read_show_or_keep_an_answer(served: Served, path: str) -> None:
    answer = ask(served, "GET", path, Origin="https://evil.example", Referer="https://evil.example/", Cookie="a=b")
    allowing = [name for name, _ in answer.getheaders() if name.lower().startswith(("access-control-", "set-cookie"))]
    assert allowing == []
    assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("Cache-Control") == "no-store"
    assert "html" not in str(answer.getheader("Content-Type"))


async def test_daemon_says_nothing_secret_and_cannot_be_held_up(dsn: str, tmp_path: Path) -> None:
    """The real daemon: connections that say nothing leave room for deliveries, and for the next who asks."""
    async with rig(dsn, tmp_path) as cpo, Sandbox(SandboxSettings(api_key=KEY)) as emp:
        cpo.monitoring = "127.0.0.1:0"
        cpo.add_emp("plug", emp)
        await cpo.ready_daemon()
        await until(lambda: '"metrics are served"' in cpo.said, "metrics are served")
        address = next(json.loads(line)["address"] for line in cpo.said.splitlines() if '"metrics are served"' in line)
        port = int(address.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        await cpo.build("s1")
        await cpo.quiet()
        assert emp.stats()["accepted"]["station"] == 1

        async def metrics() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        async def answers() -> bool:
            return b"cdc_pusher_build_info" in await metrics()

        await until(answers, "those who say nothing are gone", 30.0)
        said = await metrics()
        assert KEY.encode() not in said
        assert dsn.encode() not in said
        assert b"p" * 16 not in said
        for _, writer in idle:
            writer.close()
