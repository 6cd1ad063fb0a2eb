"""Failpoints: named places in the daemon where a fault strikes it from within. The product knows nothing of them.

A daemon that is started with `armed(…)` in its environment is struck once, when it comes to a place for the n-th time, and writes the
place's name into a file before.
"""

import asyncio
import functools
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

When = Literal["before", "after"]
Do = Literal["kill", "stop", "cut"]

MOST_DESCRIPTORS = 256
_VARIABLE = "CDC_PUSHER_TEST_FAILPOINT"
_TESTS = Path(__file__).parent.parent

CAPTURE: Mapping[str, tuple[When, str]] = {
    "the lock of capture is taken": ("after", "cdc_pusher.outbox:lock_capture"),
    "changes are consumed": ("after", "cdc_pusher.outbox:consume"),
    "stations are read": ("after", "cdc_pusher.source:Source.read"),
    "the outbox is not written yet": ("before", "cdc_pusher.outbox:write"),
    "the outbox is written": ("after", "cdc_pusher.outbox:write"),
    "a batch is committed": ("after", "cdc_pusher.capture:batch"),
    "the triggers are told whether we sleep": ("after", "cdc_pusher.enqueue:say_asleep"),
}
DELIVERY: Mapping[str, tuple[When, str]] = {
    "messages are claimed": ("after", "cdc_pusher.claims:claim"),
    "claims are committed": ("before", "cdc_pusher.delivery:Lane._send"),
    "a request begins": ("before", "cdc_pusher.client:EmpClient.send"),
    "the EMP is connected": ("after", "cdc_pusher.client:_Connector.connect"),
    "a request is written": ("after", "aiohttp.client_reqrep:ClientRequest.send"),
    "the head of an answer is there": ("before", "cdc_pusher.client:_read"),
    "an answer is there": ("after", "cdc_pusher.client:EmpClient.send"),
    "answers are recorded in part": ("before", "cdc_pusher.claims:_follow"),
    "answers are recorded": ("after", "cdc_pusher.claims:record"),
}
WALKS: Mapping[str, tuple[When, str]] = {
    "a page of a walk is read": ("after", "cdc_pusher.source:Source.page"),
    "a page of a walk is in the log": ("after", "cdc_pusher.outbox:record_changes"),
    "a page of a walk is committed": ("after", "cdc_pusher.enqueue:page"),
}
LEASES: Mapping[str, tuple[When, str]] = {
    "leases are to be renewed": ("before", "cdc_pusher.lease:Leases._beat"),
    "leases are renewed": ("after", "cdc_pusher.lease:Leases._beat"),
}
POINTS = {**CAPTURE, **DELIVERY, **WALKS, **LEASES}


def armed(point: str, nth: int, do: Do, told: Path, *, cut: int, program: Path | None = None) -> dict[str, str]:
    """The environment of a daemon that is struck at this place, the `nth` time it comes there.

    `do`: it is killed, stopped, or its connections to port `cut` break. `told`: the file that gets the name of the place; `program`: the
    checkout that the daemon is of.
    """
    first = run_first(told.parent / "armed", "from faults import points; points.install()", _TESTS, program or _TESTS.parent)
    spec = {"point": point, "time": nth, "do": do, "told": str(told), "cut": cut}
    return {_VARIABLE: json.dumps(spec), **first}


def run_first(directory: Path, code: str, *paths: Path) -> dict[str, str]:
    """The environment of a Python that runs this code before anything else, and imports from these paths; `directory` keeps the code."""
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(code + "\n")
    return {"PYTHONPATH": ":".join(map(str, (directory, *paths)))}


def install() -> None:
    """Put the failpoint of the environment, if there is one, into its place."""
    if text := os.environ.pop(_VARIABLE, None):
        spec = json.loads(text)
        when, where = POINTS[spec["point"]]
        owner, name = place(where)
        setattr(owner, name, _struck(getattr(owner, name), when, _once(spec)))


def place(where: str) -> tuple[Any, str]:
    """What has the function of that name (`module:function` or `module:Class.method`), and its name there."""
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    return functools.reduce(getattr, owners, import_module(module)), name


def _struck(function: Callable[..., Any], when: When, strike: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def later(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            strike()
        result = await function(*arguments, **options)
        if when == "after":
            strike()
        return result

    @functools.wraps(function)
    def at_once(*arguments: Any, **options: Any) -> Any:
        strike()
        return function(*arguments, **options)

    return later if asyncio.iscoroutinefunction(function) else at_once


def _once(spec: Mapping[str, Any]) -> Callable[[], None]:
    """What happens at the place: nothing, but for the n-th time."""
    left = int(spec["time"])

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            with Path(spec["told"]).open("a") as told:
                told.write(spec["point"] + "\n")
            if spec["do"] == "cut":
                _cut(spec["cut"])
            else:
                os.kill(os.getpid(), signal.SIGKILL if spec["do"] == "kill" else signal.SIGSTOP)

    return strike


def _cut(port: int) -> None:
    """Break all TCP connections of this process that lead to this port."""
    for number in range(3, MOST_DESCRIPTORS):  # /proc/self/fd is root's alone: the daemon leaves no dumps
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.family == socket.AF_INET and found.getpeername()[1] == port:
                found.shutdown(socket.SHUT_RDWR)
