"""The client: whatever an EMP does, `send` comes back in time with an `Answer` or a `Failure`, and holds no more than so much memory."""

import asyncio
import contextlib
import gzip
import time
import zlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator, Sequence

import pytest
import uvloop
from effort import at_most, examples
from hypothesis import example, given
from hypothesis import strategies as st

from cdc_pusher.client import EmpClient
from cdc_pusher.config import EmpSettings
from cdc_pusher.model import Answer, Failure

KEY = "s3cret/key+with=signs"
TIMEOUT_S = 0.25
LATE_S = 5.0  # on a machine that does other things, too
MEMORY = 8 * 2**20
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = b'{"result": {"code": 0}}'

Part = bytes | float  # what is said, or for how long nothing is


class Emp:
    """A server that reads whatever comes and says its part, the last one for ever if it is `endless`."""

    def __init__(self) -> None:
        self.parts: Sequence[Part] = ()
        self.endless = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def hang_up(self) -> None:
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)
        self._visits.clear()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.hang_up()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._visits.add(asyncio.create_task(self._talk(reader, writer)))

    async def _talk(self, reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                await reader.read(65536)
                await self._say(writer)
            finally:
                writer.transport.abort() if self.endless else writer.close()

    async def _say(self, writer: StreamWriter) -> None:
        for part in self.parts:
            await _one(writer, part)
        while self.endless:
            await _one(writer, self.parts[-1])
            await asyncio.sleep(0)


async def _one(writer: StreamWriter, part: Part) -> None:
    if isinstance(part, bytes):
        writer.write(part)
        await writer.drain()
    else:
        await asyncio.sleep(part)


class Sender:
    """An EMP, and a client of it that sends and judges what comes back."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.emp = Emp()
        self._runner = runner
        runner.run(self.emp.start())

    def sends(self, parts: Sequence[Part], *, endless: bool = False) -> Answer | Failure:
        self.emp.parts, self.emp.endless = parts, endless
        return self._runner.run(self._send())

    async def _send(self) -> Answer | Failure:
        url = f"http://127.0.0.1:{self.emp.port}/"
        said = {"url": url, "partner_identifier": "p" * 16, "api_key": KEY, "request_timeout_s": TIMEOUT_S}
        async with EmpClient(EmpSettings.model_validate(said)) as client:
            began = time.monotonic()
            answer = await client.send("status", {"connector-id": "DE*8PS*E1", "status": "Available"})
            assert time.monotonic() - began < TIMEOUT_S + LATE_S
        await self.emp.hang_up()
        assert KEY not in repr(answer)
        if isinstance(answer, Failure):
            assert answer.applied, "the EMP was there"
            assert len(answer.error) <= 200
            assert answer.error.isprintable()
        else:
            assert len(answer.message) <= 500
            assert answer.message.isprintable()
        return answer


@pytest.fixture(scope="module")
def sender() -> Iterator[Sender]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = Sender(runner)
        made.sends([HEAD, b"Content-Length: 2\r\n\r\n{}"])
        yield made
        runner.run(made.emp.stop())


lines = st.sampled_from(
    [
        *(
            HEAD,
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.1 200\r\n",
            b"HTTP/0.9 200 OK\r\n",
            b"HTTP/2.0 200 OK\r\n",
            b"HTTP/1.1 \x1b[31m200 OK\r\n",
        ),
        *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n"),
        *(
            b"HTTP/1.1 204 No Content\r\n",
            b"HTTP/1.1 304 Not Modified\r\n",
            b"HTTP/1.1 600 X\r\n",
            b"HTTP/1.1 -1 X\r\n",
            b"{}",
            b"ICY 200 OK\r\n",
        ),
    ]
)
headers = st.sampled_from(
    [
        *(
            b"Content-Length: 23",
            b"Content-Length: 5",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: -1",
            b"Content-Length: +5",
        ),
        *(
            b"Content-Length: 1\r\nContent-Length: 2",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, gzip",
            b"Transfer-Encoding: x",
        ),
        *(
            b"Content-Encoding: gzip",
            b"Content-Encoding: deflate",
            b"Content-Encoding: br",
            b"Content-Encoding: zstd",
            b"Content-Encoding: gzip, gzip",
        ),
        *(
            b"Connection: close",
            b"Connection: Upgrade\r\nUpgrade: h2c",
            b"Location: http://127.0.0.1:1/",
            b"Location: http://[",
            b"Trailer: X",
        ),
        *(
            b"Retry-After: " + b"9" * 5000,
            b"Set-Cookie: a=b; Domain=\xff",
            b" folded",
            b": nameless",
            b"a" * 9000 + b": b",
            b"a: \x00",
            b"no colon",
        ),
        *(
            b"Content-Type: text/html; charset=\xff",
            b"Content-Type: application/json; charset=utf-7",
            b"WWW-Authenticate: key=" + KEY.encode(),
        ),
    ]
) | st.binary(max_size=20)
bodies = st.sampled_from(
    [
        *(
            OK,
            b"17\r\n" + OK + b"\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"-1\r\n",
            b"zz\r\n",
            b"1;x=y\r\n{\r\n",
            b"0\r\nX: y\r\n\r\n",
            b"0\r\n",
        ),
        *(
            gzip.compress(OK),
            gzip.compress(OK)[:-8],
            zlib.compress(OK),
            gzip.compress(gzip.compress(OK)),
            b"\x1f\x8b",
            KEY.encode(),
            b"\xff\xfe{",
        ),
    ]
) | st.binary(max_size=50)
pauses = st.sampled_from([0.0, 0.01, TIMEOUT_S + 0.1])


@st.composite
def conversations(draw: st.DrawFn) -> list[Part]:
    """Like an answer, here and there, in parts; mostly without a pause, since one that is long enough is a time-out."""
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
    head = end.join([*draw(st.lists(headers, max_size=4)), b"", b""])
    said: list[Part] = [draw(lines), head, *draw(st.lists(bodies, max_size=3))]
    if draw(st.integers(0, 9)) == 0:
        said.insert(draw(st.integers(0, len(said))), draw(pauses))
    return said[draw(st.integers(0, 1)) :]


@examples(80)
@given(parts=conversations() | st.lists(st.binary(max_size=100), max_size=3))
@example(parts=[HEAD, b"Content-Length: 23\r\n\r\n", OK, OK])
@example(parts=[b"HTTP/1.1 200 " + KEY.encode() + b"\r\n" + KEY.encode() + b": " + KEY.encode() + b"\r\n\r\n" + KEY.encode()])
@example(parts=[b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"])
def test_any_answer_is_an_answer_or_a_failure(sender: Sender, parts: list[Part]) -> None:
    sender.sends(parts)


def bomb(wbits: int) -> bytes:
    """100 MB of nothing."""
    packer = zlib.compressobj(9, wbits=wbits)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(100)), packer.flush()])


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a status line": (b"HTTP/1.1 200 ", b"y" * 65536),
    "a header": (HEAD + b"X: ", b"y" * 65536),
    "headers": (HEAD, b"a: b\r\n" * 10_000),
    "cookies": (HEAD, b"Set-Cookie: a=b\r\n" * 5000),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "a body": (HEAD + b"\r\n", b"x" * 65536),
    "a body that is announced": (HEAD + b"Content-Length: 9999999999999\r\n\r\n", b"x" * 65536),
    "chunks": (CHUNKED, b"1\r\nx\r\n" * 5000),
    "a chunk's length": (CHUNKED, b"0" * 65536),
    "a chunk's extension": (CHUNKED + b"1;", b"x" * 65536),
    "trailers": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
    "empty members of gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 1000),
    "gzip": (HEAD + b"Content-Encoding: gzip\r\n\r\n" + bomb(31), b""),
    "deflate": (HEAD + b"Content-Encoding: deflate\r\n\r\n" + bomb(15), b""),
    "raw deflate": (HEAD + b"Content-Encoding: deflate\r\n\r\n" + bomb(-15), b""),
    "gzip in chunks": (HEAD + b"Content-Encoding: gzip\r\n" + CHUNKED[len(HEAD) :] + b"%x\r\n" % len(bomb(31)) + bomb(31), b""),
    "answers": (b"", (HEAD + b"Content-Length: 2\r\n\r\n{}") * 1000),
    "a status line, dripping": (b"HTTP/1.1 200 ", 0.01, b"y"),
    "a header, dripping": (HEAD + b"X: ", 0.01, b"y"),
    "a body, dripping": (HEAD + b"\r\n", 0.01, b"y"),
    "silence": (0.1,),
    "silence in a body": (HEAD + b"Content-Length: 23\r\n\r\n{", 0.1),
}


@pytest.mark.parametrize("parts", ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_cut_off(sender: Sender, parts: Sequence[Part]) -> None:
    with at_most(MEMORY):
        sender.sends(parts, endless=True)
