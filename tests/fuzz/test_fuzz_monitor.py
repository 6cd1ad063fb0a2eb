"""The HTTP surface of the daemon: whatever is sent to it, it answers with HTTP or hangs up, soon, and goes on answering others."""

import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from effort import at_most, examples
from hypothesis import example, given
from hypothesis import strategies as st
from served import PATIENCE_S, Served

from cdc_pusher.monitor import server

CONNECTION_S = 0.3
MEMORY = 16 * 2**20  # what is received at once becomes objects before anybody counts headers
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
REFUSALS = {400, 404, 405, 411, 413, 414, 417, 421, 431, 501, 505}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "CONNECTION_S", CONNECTION_S)
        with Served() as running:
            yield running


def statuses(answer: bytes) -> set[int]:
    """Of all answers there are; nothing else may be said."""
    assert re.match(rb"HTTP/\d\.\d |$", answer)
    return {int(status) for status in re.findall(rb"^HTTP/\d\.\d (\d{3}) ", answer, re.MULTILINE)}


methods = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"get", b"G\x00T"]) | st.binary(
    max_size=5
)
targets = st.sampled_from(
    [
        *(
            b"/livez",
            b"/metrics",
            b"/readyz",
            b"/readyz/emp",
            b"/readyz/%00",
            b"/readyz/%ff%fe",
            b"/readyz/..%2f..",
            b"/readyz/\x1b[31m",
            b"*",
        ),
        *(b"//livez", b"/livez?x=y#z", b"http://evil.example/livez", b"http://[", b"/" + b"a" * 9000, b"", b"livez", b"/livez/../metrics"),
    ]
) | st.binary(max_size=20)
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.1 ", b"", b"HTTP/9999999999.1", b"ICY"])
headers = st.sampled_from(
    [
        *(
            b"Host: localhost",
            b"Host: evil.example",
            b"Host:",
            b"host: [::1]:9465",
            b"Host: a\x00b",
            b"Host: localhost\r\nHost: evil.example",
        ),
        *(b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 1\r\nContent-Length: 2"),
        *(
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: x\r\nContent-Length: 3",
            b"Expect: 100-continue",
        ),
        *(
            b"Connection: keep-alive",
            b"Connection: Upgrade\r\nUpgrade: websocket",
            b"Upgrade: h2c",
            b"Range: bytes=0-",
            b"Content-Encoding: gzip",
        ),
        *(
            b" folded",
            b": nameless",
            b"a" * 9000 + b": b",
            b"a: " + b"b" * 9000,
            b"a b: c",
            b"a\x00: c",
            b"no colon",
            b"Cookie: " + b"a=b; " * 999,
        ),
    ]
) | st.binary(max_size=20)
ends = st.sampled_from([b"\r\n", b"\n", b"\r", b""])
bodies = st.sampled_from(
    [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"zz\r\n", b"1;" + b"x" * 9000, GET + b"\r\n"]
) | st.binary(max_size=50)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Like HTTP, here and there; or several at once, or anything."""
    end = draw(st.just(b"\r\n") | ends)
    line = b" ".join([draw(methods), draw(targets), draw(versions)])
    return end.join([line, *draw(st.lists(headers, max_size=5)), draw(st.just(b"") | ends), draw(bodies)])


@examples(60)
@given(parts=st.lists(requests() | st.binary(max_size=100), min_size=1, max_size=3), ends=st.booleans())
@example(parts=[GET + b"\r\n"] * 1000, ends=False)
@example(parts=[b"GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n\r\n"], ends=True)
@example(parts=[b"GET /livez HTTP/0.9\r\n\r\n"], ends=False)
@example(parts=[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], ends=True)
@example(parts=[b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ends=True)
@example(parts=[b"\r\n" * 10_000, GET, b"\r\n"], ends=True)
def test_any_bytes_are_answered_with_http_or_nothing(served: Served, parts: list[bytes], ends: bool) -> None:
    assert statuses(served.says(b"".join(parts), ends=ends)) <= REFUSALS | {100, 200, 503}
    assert served.is_well()


ENDLESS = {
    "a method": (b"", b"G" * 65536),
    "a target": (b"GET /", b"a" * 65536),
    "a header": (GET + b"X: ", b"a" * 65536),
    "headers": (GET, b"a: b\r\n" * 10_000),
    "empty lines": (b"", b"\r\n" * 30_000),
    "requests": (b"", (GET + b"\r\n") * 1000),
    "requests that are refused": (b"", b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000),
    "a body": (GET + b"Content-Length: 999999999999\r\n\r\n", bytes(65536)),
    "chunks": (GET + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
    "an extension of a chunk": (GET + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536),
    "trailers": (GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 10_000),
}


def is_cut_off(conn: socket.socket, drip: bytes, pause_s: float = 0.0) -> bool:
    """Whether the other side hangs up although we go on sending."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        try:
            conn.sendall(drip)
        except ConnectionError:
            return True
        time.sleep(pause_s)
    return False


@pytest.mark.parametrize("request_", ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_cut_off(served: Served, request_: tuple[bytes, bytes]) -> None:
    head, rest = request_
    with at_most(MEMORY), served.connect() as conn:
        conn.sendall(head)
        assert is_cut_off(conn, rest)
    assert served.is_well()


SLOW = {
    "nothing": b"",
    "half a line": b"GET /li",
    "half a head": GET,
    "half a body": GET + b"Content-Length: 5\r\n\r\nab",
    "a choice": GET + b"\r\n",
}


@pytest.mark.parametrize("begun", SLOW.values(), ids=SLOW)
def test_whoever_is_slow_is_hung_up_on(served: Served, begun: bytes) -> None:
    with served.connect() as conn:
        conn.sendall(begun)
        assert is_cut_off(conn, b"x", pause_s=0.05)
    assert served.is_well()


def test_whoever_reads_nothing_is_hung_up_on(served: Served) -> None:
    with served.connect() as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        conn.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(3 * CONNECTION_S)
    assert served.is_well()


def test_connections_are_few_and_the_next_are_refused_until_those_have_gone(served: Served) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(served.connect()) for _ in range(3 * server.MOST_CONNECTIONS)]
        for conn in idle:
            conn.settimeout(PATIENCE_S)
            try:
                assert conn.recv(1) == b"", "hung up on, at once or later"
            except ConnectionResetError:
                continue
    assert served.is_well()


def test_nonsense_fills_no_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for nonsense in (b"\x00" * 100, b"GET /\x1b[31m\r\n\r\n", GET + b"a" * 9000 + b"\r\n\r\n", GET + b"Content-Length: x\r\n\r\n"):
        served.says(nonsense)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
