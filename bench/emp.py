"""An EMP that is faster than whoever is measured: it takes every message, and keeps a ledger of what arrived.

`python -m bench.emp` prints its port and ends on SIGTERM. `POST /25` is answered after 25 ms, `POST /0` at once, always with success. It
reads HTTP/1.1 with Content-Length and kept connections, no more than the clients here speak. `GET /ledger` tells what arrived since the
last `POST /reset`; `GET /ledger?arrivals=1` also when each status did; `GET /counts` is the ledger without its statuses.

An overlap is a request that came while another for the same EVSE or station was unanswered: also if its connection has gone, since an EMP
may go on with it. One that is answered at once is never overlapped. A duplicate has the content that the one before it for the same EVSE
or station had. A status counts from its arrival. Nothing is validated: that is the sandbox's task.
"""

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from typing import Any, Self

import uvloop

from bench.usage import cpu_s

ARRIVALS = 200_000
"""So many statuses are remembered with their time, the last ones."""

_KEY = re.compile(rb'"(connector-id|id)"\s*:\s*"([^"]*)"')
_STATUS = re.compile(rb'"status"\s*:\s*"([^"]*)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SUCCESS = b'{"result":{"code":0,"message":"Success."}}'
_STOP_S = 10.0


class Emp:
    """The stub as a process, for the length of a `with` block; `cpu_s` is what it has used."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-m", "bench.emp"], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def url(self, delay_ms: int = 0) -> str:
        return f"http://127.0.0.1:{self.port}/{delay_ms}"

    def ledger(self, *, arrivals: bool = False) -> dict[str, Any]:
        """`stations` and `statuses` that arrived, `overlaps`, `duplicates`, `first_at`, `last_at` (of statuses, time.time()), `last`: the
        status of each EVSE. With `arrivals` also those: [time, EVSE, status], in order."""
        return self._ask("GET", "/ledger?arrivals=1" if arrivals else "/ledger")

    def counts(self) -> dict[str, Any]:
        """The ledger without `last`, which costs the stub next to nothing."""
        return self._ask("GET", "/counts")

    def reset(self) -> None:
        self._ask("POST", "/reset")

    @property
    def cpu_s(self) -> float:
        return cpu_s([self._process.pid])

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            conn.request(method, path, body=b"" if method == "POST" else None)
            found: dict[str, Any] = json.loads(conn.getresponse().read())
            return found
        finally:
            conn.close()


class _Ledger:
    def __init__(self) -> None:
        self.unanswered: Counter[bytes] = Counter()
        self.clear()

    def clear(self) -> None:
        self.stations = self.statuses = self.overlaps = self.duplicates = 0
        self.first_at = self.last_at = 0.0
        self.last: dict[bytes, bytes] = {}
        self._content: dict[bytes, int] = {}
        self.arrivals: deque[tuple[float, bytes, bytes]] = deque(maxlen=ARRIVALS)

    def arrive(self, body: bytes) -> bytes:
        """Note a message. Returns what it is about, for `unanswered`."""
        found = _KEY.search(body)
        if found is None:
            return b""
        kind, key = found.groups()
        if kind == b"id":
            key = b"station " + key
            self.stations += 1
        else:
            self._arrive_status(key, body)
        if self.unanswered[key] > 0:
            self.overlaps += 1
        content = hash(body)
        if self._content.get(key) == content:
            self.duplicates += 1
        self._content[key] = content
        return key

    def _arrive_status(self, evse: bytes, body: bytes) -> None:
        found = _STATUS.search(body)
        status = found[1] if found else b""
        self.last_at = time.time()
        self.first_at = self.first_at or self.last_at
        self.statuses += 1
        self.last[evse] = status
        self.arrivals.append((self.last_at, evse, status))

    def rows(self, *, last: bool, arrivals: bool) -> dict[str, Any]:
        names = ("stations", "statuses", "overlaps", "duplicates", "first_at", "last_at")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        if last:
            found["last"] = {evse.decode(): status.decode() for evse, status in self.last.items()}
        if arrivals:
            found["arrivals"] = [(at, evse.decode(), status.decode()) for at, evse, status in self.arrivals]
        return found


class _Connection(asyncio.Protocol):
    """One connection of a client, which has at most one request on it at a time."""

    def __init__(self, ledger: _Ledger) -> None:
        self._ledger = ledger
        self._received = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(received, 0, end)
        total = end + 4 + (int(found[1]) if found else 0)
        if len(received) < total:
            return
        self._received = received[total:]
        method, path, _ = received[: received.index(b"\r\n")].split(b" ")
        if method == b"POST" and path[1:].isdigit():
            self._take(received[end + 4 : total], int(path[1:]))
        else:
            self._control(path)

    def _take(self, body: bytes, delay_ms: int) -> None:
        key = self._ledger.arrive(body)
        if delay_ms:
            self._ledger.unanswered[key] += 1
            self._loop.call_later(delay_ms / 1000, self._answer_late, key)
        else:
            self._answer(_SUCCESS)

    def _answer_late(self, key: bytes) -> None:
        self._ledger.unanswered[key] -= 1
        if not self._ledger.unanswered[key]:
            del self._ledger.unanswered[key]
        self._answer(_SUCCESS)

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    def _control(self, path: bytes) -> None:
        if path == b"/reset":
            self._ledger.clear()
            self._answer(b"{}")
        else:
            rows = self._ledger.rows(last=path != b"/counts", arrivals=path.endswith(b"?arrivals=1"))
            self._answer(json.dumps(rows).encode())


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    ledger = _Ledger()
    server = await loop.create_server(lambda: _Connection(ledger), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdout.close()
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve())
