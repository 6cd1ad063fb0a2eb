"""Whatever an EMP or the network does, `send` gives an Answer or a Failure, and neither ever shows the API key."""

import asyncio
import contextlib
import gzip
import json
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from cdc_pusher import __version__
from cdc_pusher.client import EmpClient, TooLate
from cdc_pusher.config import EmpSettings
from cdc_pusher.model import Answer, Failure, Payload
from cdc_pusher.sandbox import Sandbox, SandboxSettings

KEY = "s3cret/key+with=signs"
STATUS: Payload = {"connector-id": "DE*8PS*E1", "status": "Available"}
OK = b'{"result": {"code": 0, "message": "Success."}}'

Conversation = Callable[[bytes, StreamWriter], Awaitable[None]]


def settings(url: str, **changes: Any) -> EmpSettings:
    return EmpSettings.model_validate({"url": url, "partner_identifier": "p" * 16, "api_key": KEY, "request_timeout_s": 5, **changes})


async def read_request(reader: StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


class Server:
    """A raw TCP server: reads a whole request and then does what the test says."""

    def __init__(self, converse: Conversation) -> None:
        self.requests: list[bytes] = []
        self._converse = converse
        self._visits: set[asyncio.Task[None]] = set()

    def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._visits.add(asyncio.create_task(self._serve(reader, writer)))

    async def close(self) -> None:
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _talk(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.requests.append(await read_request(reader))
                await self._converse(self.requests[-1], writer)
                if writer.is_closing():
                    break


@asynccontextmanager
async def a_server(converse: Conversation) -> AsyncIterator[tuple[str, Server]]:
    server = Server(converse)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/api", server
    finally:
        listener.close()
        await server.close()


def saying(*parts: bytes, close: bool = True) -> Conversation:
    async def converse(_request: bytes, writer: StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return converse


def http(body: bytes = OK, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def ask(url: str, **changes: Any) -> Answer | Failure:
    async with EmpClient(settings(url, **changes)) as client:
        answer = await client.send("status", STATUS)
    assert KEY not in repr(answer)
    return answer


async def answer_to(converse: Conversation, **changes: Any) -> Answer | Failure:
    async with a_server(converse) as (url, _):
        return await ask(url, **changes)


# ── what goes out, what comes back ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_request_has_the_headers_and_the_body_of_the_protocol_and_no_more() -> None:
    async with a_server(saying(http())) as (url, server):
        assert await ask(url) == Answer(http_status=200, code=0, message="Success.")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(headers) == len(lines)
    assert request_line == "POST /api HTTP/1.1"
    assert headers["user-agent"] == f"cdc-pusher/{__version__}", "firewalls refuse requests without one"
    assert (headers["authorization"], headers["content-type"]) == (f"key={KEY}", "application/json")
    assert headers.keys() <= {
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
        "authorization",
        "content-type",
        "content-length",
    }
    assert json.loads(body) == {"connector-post-status": {**STATUS, "partner-identifier": "p" * 16}}


async def test_strict_emp_takes_what_is_sent() -> None:
    async with Sandbox(SandboxSettings(api_key=KEY, partner_identifier="p" * 16)) as emp:
        answer = await ask(emp.url)
        assert isinstance(answer, Answer)
        assert answer.code == 181  # well-formed, and no station was pushed
        wrong = EmpSettings.model_validate({"url": emp.url, "partner_identifier": "p" * 16, "api_key": "other"})
        async with EmpClient(wrong) as client:
            answer = await client.send("status", STATUS)
        assert isinstance(answer, Answer)
        assert (answer.http_status, answer.code) == (401, 210)


async def test_connection_is_kept_for_the_next_request() -> None:
    ports: set[int] = set()

    async def converse(_request: bytes, writer: StreamWriter) -> None:
        ports.add(writer.get_extra_info("peername")[1])
        writer.write(http())

    async with a_server(converse) as (url, _), EmpClient(settings(url)) as client:
        for _ in range(5):
            assert isinstance(await client.send("status", STATUS), Answer)
    assert len(ports) == 1


async def test_retry_after_comes_with_the_answer() -> None:
    async with Sandbox(SandboxSettings(faults=({"kind": "http", "status": 503, "retry_after": 7},))) as emp:
        answer = await ask(emp.url)
    assert isinstance(answer, Answer)
    assert (answer.http_status, answer.code, answer.retry_after) == (503, None, "7")


async def test_redirect_is_not_followed() -> None:
    async with a_server(saying(http())) as (elsewhere, other):
        for status in (301, 302, 303, 307, 308):
            answer = await answer_to(saying(http(b"", f"Location: {elsewhere}", status=f"{status} Moved")))
            assert answer == Answer(http_status=status)
    assert other.requests == []


async def test_proxy_and_netrc_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with a_server(saying(http())) as (proxy, spy), a_server(saying(http())) as (url, server):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login spy password spy\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert isinstance(await ask(url), Answer)
    assert spy.requests == []
    assert f"uthorization: key={KEY}".encode() in server.requests[0]


async def test_proxy_of_the_configuration_is_used(tmp_path: Path) -> None:
    async with a_server(saying(http())) as (url, spy):
        proxy = url.replace("http://", "http://user:pa55word@")
        assert isinstance(await ask("http://emp.invalid/api", proxy=proxy), Answer)
    assert b"Proxy-Authorization: Basic dXNlcjpwYTU1d29yZA==" in spy.requests[0]
    assert spy.requests[0].startswith(b"POST http://emp.invalid/api HTTP/1.1")


@pytest.mark.parametrize("credentials", ["", "user:pa55word@"])
async def test_proxy_is_told_its_own_credentials_and_no_key(credentials: str) -> None:
    async with a_server(saying(http(b"", status="407 Proxy Authentication Required"))) as (url, spy):
        proxy = url.replace("http://", f"http://{credentials}").removesuffix("/api")
        found = await ask("https://emp.invalid/api", proxy=proxy)
    assert isinstance(found, Failure)
    assert "407" in found.error
    assert "pa55word" not in found.error
    assert KEY.encode() not in spy.requests[0]
    assert (b"Proxy-Authorization: Basic dXNlcjpwYTU1d29yZA==" in spy.requests[0]) == bool(credentials)


async def test_certificates_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    assert isinstance(await answer_to(saying(http())), Answer)


# ── the key ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"result": {"code": 210, "message": f"invalid key {KEY}!"}}),
        json.dumps({"result": {"code": 210, "message": f"invalid key {KEY}!"}}).replace("/", "\\/"),
        json.dumps({"result": {"code": 210, "message": f"invalid key {KEY}!"}}).replace("+", "\\u002b"),
        json.dumps({"result": {"code": 210}, "error": f"invalid key {KEY}!"}),
        f"<html>Authorization: key={KEY}</html>",
        f"{KEY[:5]} {KEY} {KEY}",
    ],
    ids=["json", "escaped slash", "escaped plus", "error", "html", "twice"],
)
async def test_key_that_the_emp_repeats_is_struck_out(body: str) -> None:
    answer = await answer_to(saying(http(body.encode(), status="401 Unauthorized")))
    assert isinstance(answer, Answer)
    assert KEY not in repr(answer)


async def test_key_that_a_broken_server_repeats_stands_in_no_failure() -> None:
    async def echo(request: bytes, writer: StreamWriter) -> None:
        writer.write(b"key=" + KEY.encode() + b"\r\n" + request)
        writer.close()

    assert isinstance(await answer_to(echo), Failure)


async def test_key_in_a_broken_header_stands_in_no_failure() -> None:
    answer = await answer_to(saying(f"HTTP/1.1 200 OK\r\nbad header key={KEY}\r\n\r\n".encode()))
    assert isinstance(answer, Failure)


async def test_key_is_not_in_the_client_as_text() -> None:
    async with EmpClient(settings("http://127.0.0.1:1/")) as client:
        assert KEY not in repr(client)
        assert KEY not in str(client)


# ── what can go wrong ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_refused_connection_was_surely_not_applied() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        answer = await ask(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert isinstance(answer, Failure)
    assert not answer.applied


async def test_name_that_nobody_knows_was_surely_not_applied() -> None:
    answer = await ask("http://nowhere.invalid/")
    assert isinstance(answer, Failure)
    assert not answer.applied


async def test_hanging_emp_ends_with_the_time_out_and_may_have_applied() -> None:
    async with Sandbox(SandboxSettings(api_key=KEY, partner_identifier="p" * 16, faults=({"kind": "hang"},))) as emp:
        answer = await ask(emp.url, request_timeout_s=0.2)
    assert isinstance(answer, Failure)
    assert answer.applied


async def test_trickling_answer_ends_with_the_time_out_of_the_whole_request() -> None:
    async def trickle(_request: bytes, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    began = asyncio.get_running_loop().time()
    answer = await answer_to(trickle, request_timeout_s=0.4)
    assert isinstance(answer, Failure)
    assert answer.applied
    assert asyncio.get_running_loop().time() - began < 3


async def reset(_request: bytes, writer: StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset_in_the_answer(request: bytes, writer: StreamWriter) -> None:
    writer.write(http()[:-5])
    await writer.drain()
    await reset(request, writer)


@pytest.mark.parametrize(
    "converse",
    [
        saying(),
        reset,
        reset_in_the_answer,
        saying(b"HTTP/1.1 2"),
        saying(http()[:-5]),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        saying(b"HTTP/1.1 99999 OK\r\n\r\n"),
        saying(b"\x00\xff" * 500),
        saying(b"SSH-2.0-OpenSSH_9.2\r\n"),
        saying(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: y\r\n" % n for n in range(50_000)) + b"\r\n"),
        saying(http(b"not gzip at all", "Content-Encoding: gzip")),
        saying(http(gzip.compress(OK)[:-12], "Content-Encoding: gzip")),
        saying(http(b"x", "Content-Encoding: br, deflate, made-up")),
        saying(b"HTTP/1.1 100 Continue\r\n\r\n"),
        saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        saying(http(b"", "Set-Cookie: a=b; Domain=\xff", "Location: http://[")),
    ],
    ids=[
        "closed",
        "reset",
        "reset in the answer",
        "half a status line",
        "half a body",
        "half a chunk",
        "no chunk",
        "length is no number",
        "negative length",
        "absurd status",
        "bytes",
        "another protocol",
        "long header",
        "many headers",
        "no gzip",
        "half of gzip",
        "unknown encodings",
        "only 100",
        "101",
        "odd headers",
    ],
)
async def test_broken_answer_after_the_request_may_have_been_applied_and_never_raises(converse: Conversation) -> None:
    answer = await answer_to(converse, request_timeout_s=2)
    if isinstance(answer, Failure):
        assert answer.applied
        assert len(answer.error) <= 200
        assert answer.error.isprintable()
    else:
        assert answer.code in (None, 0)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "garbage"])
async def test_faults_of_the_sandbox_may_have_been_applied(fault: str) -> None:
    async with Sandbox(SandboxSettings(api_key=KEY, partner_identifier="p" * 16, faults=({"kind": fault},))) as emp:
        answer = await ask(emp.url)
    if fault == "garbage":
        assert isinstance(answer, Answer)
        assert (answer.http_status, answer.code) == (200, None)
    else:
        assert isinstance(answer, Failure)
        assert answer.applied


async def test_connection_that_breaks_while_kept_open_is_no_error_for_ever() -> None:
    """The EMP closes after each answer without saying so; the next request may meet a dead connection, the one after works."""
    async with a_server(saying(http())) as (url, _), EmpClient(settings(url)) as client:
        found = [await client.send("status", STATUS) for _ in range(6)]
    assert any(isinstance(one, Answer) for one in found)
    assert all(isinstance(one, Answer) or one.applied for one in found)


async def test_answer_is_read_up_to_a_limit() -> None:
    for body in (b"x" * 1_000_000, b" " * 1_000_000 + OK, gzip.compress(b"y" * 50_000_000)):
        encoding = ["Content-Encoding: gzip"] if body[:2] == b"\x1f\x8b" else []
        answer = await answer_to(saying(http(body, *encoding)))
        assert isinstance(answer, Answer)
        assert answer.code is None
        assert len(answer.message) <= 500


async def test_answer_without_an_end_is_not_waited_for() -> None:
    async def pour(_request: bytes, writer: StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    answer = await answer_to(pour)
    assert isinstance(answer, Answer)
    assert answer.http_status == 200


async def test_request_after_a_cut_answer_works() -> None:
    answers = iter((http(b"x" * 1_000_000), http()))

    async def converse(_request: bytes, writer: StreamWriter) -> None:
        writer.write(next(answers))
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async with a_server(converse) as (url, _), EmpClient(settings(url)) as client:
        first, second = await client.send("status", STATUS), await client.send("status", STATUS)
    assert (first.http_status, second.code) == (200, 0) if isinstance(first, Answer) and isinstance(second, Answer) else False


async def test_many_requests_at_once_keep_to_the_connections_that_are_allowed() -> None:
    open_now, most = set[int](), 0

    async def converse(_request: bytes, writer: StreamWriter) -> None:
        nonlocal most
        open_now.add(writer.get_extra_info("peername")[1])
        most = max(most, len(open_now))
        writer.write(http())

    async with a_server(converse) as (url, _), EmpClient(settings(url, concurrency=3)) as client:
        found = await asyncio.gather(*(client.send("status", STATUS) for _ in range(30)))
    assert all(isinstance(one, Answer) for one in found)
    assert most <= 3


# ── no exception of aiohttp gets through ───────────────────────────────────────────────────────────────────────────────────────────────

NEVER_MADE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


def every(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(one for child in kind.__subclasses__() for one in every(child))]


def made(kind: type[Exception]) -> Exception:
    """An error of this kind, as aiohttp makes it."""
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return kind(b"words", b"others", "emp", 443)
    if issubclass(kind, aiohttp.client_exceptions.UnixClientConnectorError):
        return kind("path", ConnectionKey("emp", 443, False, False, None, None, None), OSError(1, "words\n"))
    if issubclass(kind, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorError):
        key = ConnectionKey("emp", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
        return kind(key, OSError(1, "words\n"))
    if issubclass(kind, aiohttp.ClientResponseError):
        url = URL("http://emp/")
        return kind(aiohttp.RequestInfo(url, "POST", CIMultiDictProxy(CIMultiDict()), url), (), message="words\n")
    return kind("words\n")


@pytest.mark.parametrize("kind", [*every(aiohttp.ClientError), OSError, RuntimeError], ids=lambda kind: kind.__name__)
async def test_every_error_of_aiohttp_becomes_a_failure(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(*_: object, **__: object) -> None:
        raise error

    error = made(kind)
    monkeypatch.setattr(aiohttp.ClientSession, "_request", request)
    answer = await ask("http://x/")
    assert isinstance(answer, Failure)
    assert answer.error.startswith(kind.__name__)
    assert answer.applied != issubclass(kind, NEVER_MADE)
    assert answer.timed_out == issubclass(kind, TimeoutError)


async def test_what_is_too_late_when_the_connection_is_there_is_not_sent() -> None:
    async with a_server(saying(http())) as (url, spy), EmpClient(settings(url)) as client:
        with pytest.raises(TooLate):
            await client.send("status", STATUS, in_time=lambda: False)
        assert spy.requests == []
        assert isinstance(await client.send("status", STATUS), Answer)
