"""cdc-pusher, which knows what the EMP has: before changes are pushed comes the full load."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.arms.arm import Arm
from bench.cpo import Cpo
from bench.emp import Emp
from bench.fleet import CONCURRENCY, CONFIG, EMP, SETTLED, until
from bench.processes import cdc_pusher, configured

LOADED = "SELECT EXISTS (SELECT FROM cdc_pusher.emp WHERE full_load_completed_at IS NOT NULL)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours(Arm):
    """`concurrency`: so many requests at once, the full load included."""

    name: str = "cdc-pusher"
    is_fast: bool = True
    has_worker: bool = True
    concurrency: int = CONCURRENCY

    def missing(self) -> str:
        return ""

    def install(self, cpo: Cpo, emp: Emp) -> None:
        config = self._configured(cpo, emp.url())
        with cdc_pusher("migrate", "--config", str(config), stdout=subprocess.DEVNULL) as migrating:
            assert migrating.wait() == 0, "cdc-pusher migrate has failed"
        with self.started(cpo, emp) as daemon:
            until(lambda: daemon.poll() is not None or (cpo.value(LOADED) and cpo.value(SETTLED)))
        cpo.sql("VACUUM ANALYZE")

    def command(self, cpo: Cpo, url: str) -> Sequence[str]:
        return [sys.executable, "-m", "cdc_pusher", "run", "--config", str(self._configured(cpo, url))]

    def environ(self, cpo: Cpo) -> dict[str, str]:
        return {}

    def settle(self, cpo: Cpo) -> None:
        until(lambda: cpo.value(SETTLED))

    def _configured(self, cpo: Cpo, url: str) -> Path:
        config = cpo.directory / f"{cpo.name}.toml"
        section = EMP.format(name="bench", url=json.dumps(url), concurrency=self.concurrency)
        configured(config, CONFIG.format(dsn=json.dumps(cpo.dsn)) + section)
        return config
