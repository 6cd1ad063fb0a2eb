"""The daemon's monitoring page by itself, in a thread with a loop like the daemon's, and raw connections to it."""

import asyncio
import contextlib
import socket
import threading
import time
from typing import Self

import uvloop

from cdc_pusher.config import MonitoringSettings, Settings
from cdc_pusher.gauges import Gauges
from cdc_pusher.monitor import Monitor
from cdc_pusher.part import Part

PATIENCE_S = 20.0  # on a machine that does other things, too
LARGEST = 100_000  # bytes of an answer


class Served:
    """Serves for the length of a `with` block, on a free port."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                if self.is_well():
                    return self
            time.sleep(0.02)  # the interval of a poll
        raise AssertionError("it does not serve")

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._part.stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        settings = Settings(monitoring=MonitoringSettings(listen=""))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            self._part = Part("monitor", Monitor("me", lambda: settings, Gauges(), list).run, key=f"127.0.0.1:{self.port}")
            runner.run(self._part._run())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def says(self, request: bytes, *, ends: bool = False) -> bytes:
        """All that is answered until the connection is over."""
        received = b""
        with self.connect() as conn, contextlib.suppress(ConnectionError):
            conn.sendall(request)
            if ends:
                conn.shutdown(socket.SHUT_WR)
            while part := conn.recv(65536):
                received += part
                assert len(received) <= LARGEST
        return received

    def is_well(self) -> bool:
        """Whether it answers what is well-formed."""
        return self.says(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").endswith(b"[+] parts ok\n")
