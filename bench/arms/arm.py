"""One of the systems that are compared: how it is installed into a CPO's database, and its worker process."""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.cpo import Cpo
from bench.emp import Emp

START_S, STOP_S = 60.0, 5.0
PROBE_S = 0.5
REST_S = 1.0
SAID = 500  # characters of the log


class Arm(ABC):
    """`is_fast`: it delivers a storm in seconds, so that several rounds of it are not too many."""

    name: str
    is_fast: bool
    has_worker: bool

    @property
    def key(self) -> str:
        """The name as a part of others' names."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name).lower()

    @abstractmethod
    def missing(self) -> str:
        """Why it cannot take part; empty if it can."""

    @abstractmethod
    def install(self, cpo: Cpo, emp: Emp) -> None:
        """Make triggers and tables, and whatever comes before changes are pushed."""

    @abstractmethod
    def command(self, cpo: Cpo, url: str) -> Sequence[str]:
        """What starts the worker."""

    @abstractmethod
    def environ(self, cpo: Cpo) -> Mapping[str, str]: ...

    def settle(self, cpo: Cpo) -> None:  # noqa: B027  # most have nothing to wait for
        """Wait until the worker has nothing more to do than it can say."""

    @contextmanager
    def worker(self, cpo: Cpo, emp: Emp, delay_ms: int = 0) -> Iterator[subprocess.Popen[str]]:
        """A worker that has delivered a change of the first EVSE, and has nothing to do; it may be killed."""
        with self.started(cpo, emp, delay_ms) as process:
            self._probe(cpo, emp, process)
            yield process

    @contextmanager
    def started(self, cpo: Cpo, emp: Emp, delay_ms: int = 0) -> Iterator[subprocess.Popen[str]]:
        """A worker that has just been started; it is told to end, and ended if it does not."""
        command, environ = self.command(cpo, emp.url(delay_ms)), {**os.environ, **self.environ(cpo)}
        with (
            self._log(cpo).open("w") as log,
            subprocess.Popen(command, env=environ, stdout=log, stderr=log, text=True) as process,
        ):
            try:
                yield process
                self._check(cpo, process)
            finally:
                _end(process)

    def _probe(self, cpo: Cpo, emp: Emp, process: subprocess.Popen[str]) -> None:
        emp.reset()
        deadline = time.monotonic() + START_S
        while not emp.counts()["statuses"]:
            self._check(cpo, process)
            assert time.monotonic() < deadline, f"{self.name} has sent nothing: {self._said(cpo)}"
            cpo.toggle(cpo.evses[0])
            time.sleep(PROBE_S)
        self.settle(cpo)
        time.sleep(REST_S)
        emp.reset()

    def _check(self, cpo: Cpo, process: subprocess.Popen[str]) -> None:
        assert process.poll() in (None, -signal.SIGKILL), f"{self.name} has ended: {self._said(cpo)}"

    def _said(self, cpo: Cpo) -> str:
        return self._log(cpo).read_text()[-SAID:]

    def _log(self, cpo: Cpo) -> Path:
        return cpo.directory / f"{cpo.name}.log"


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
