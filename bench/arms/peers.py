"""Other ways to push a status: a trigger on the CPO's connectors, and a worker that posts with 64 requests at once.

Each is set up as its documentation says, for throughput where it says how. The trigger hands all changes of a statement over at once: with
graphile-worker's `add_job` for each row an UPDATE of 20,000 took 23 s, since every call goes through the jobs of those before it. None is
told to keep the changes of an EVSE in order: graphile-worker advises against a queue for each EVSE ("avoid using high cardinality
values"), pgqueuer has nothing of the kind, and with procrastinate's lock every fetch looks for earlier jobs.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.arms.arm import Arm
from bench.arms.environment import Environment
from bench.cpo import Cpo
from bench.emp import Emp

WORKERS = Path(__file__).parent / "workers"
TRIGGER = """
CREATE FUNCTION push() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {enqueue} FROM (SELECT evse_id, status FROM after_it EXCEPT SELECT evse_id, status FROM before_it) AS changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER push AFTER UPDATE ON connector REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
    FOR EACH STATEMENT EXECUTE FUNCTION push();
"""
PAYLOAD = "json_build_object('connector-id', evse_id, 'status', status)"

CLIENTS = Environment(
    name="clients", packages=("aiohttp==3.14.5", "httpx==0.28.1", "psycopg[binary]==3.3.9", "pyreqwest==0.15.1", "uvloop==0.23.0")
)
PROCRASTINATE = Environment(name="procrastinate", packages=("procrastinate==3.10.0", "psycopg[binary]==3.3.9", "aiohttp==3.14.5"))
PGQUEUER = Environment(name="pgqueuer", packages=("pgqueuer[asyncpg]==1.6.0", "asyncpg==0.32.0", "aiohttp==3.14.5"))
GRAPHILE = Environment(name="graphile", packages=("graphile-worker@0.17.3", "undici@7.30.2"), node=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(Arm):
    """A script that is run as `script install` and as `script run URL`, with `options`; the trigger does `enqueue`."""

    name: str
    environment: Environment
    script: str
    enqueue: str
    options: tuple[str, ...] = ()
    is_fast: bool = False
    has_worker: bool = True

    def missing(self) -> str:
        return self.environment.missing()

    def install(self, cpo: Cpo, emp: Emp) -> None:
        command = [*self.environment.command(WORKERS / self.script), "install"]
        done = subprocess.run(command, env={**os.environ, **self.environ(cpo)}, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{self.name} cannot be installed: {done.stderr[-500:]}"
        cpo.sql(TRIGGER.format(enqueue=self.enqueue))

    def command(self, cpo: Cpo, url: str) -> Sequence[str]:
        return [*self.environment.command(WORKERS / self.script), "run", url, *self.options]

    def environ(self, cpo: Cpo) -> dict[str, str]:
        return {**cpo.environ, **self.environment.environ}


NAIVE = Peer(
    name="LISTEN and httpx",
    environment=CLIENTS,
    script="listen_httpx.py",
    enqueue=f"PERFORM pg_notify('push', {PAYLOAD}::text)",
)
GRAPHILE_LOCAL = Peer(
    name="graphile-worker, local queue",
    environment=GRAPHILE,
    script="with_graphile.cjs",
    enqueue=f"""PERFORM graphile_worker.add_jobs(array_agg(
        ROW('push', {PAYLOAD}, NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec
    ))""",
    options=("local",),
    is_fast=True,
)
PEERS = (
    NAIVE,
    Peer(
        name="procrastinate",
        environment=PROCRASTINATE,
        script="with_procrastinate.py",
        enqueue=f"""PERFORM procrastinate_defer_jobs_v1(array_agg(
            ROW('push', 'push', 0, NULL, NULL, jsonb_build_object('payload', {PAYLOAD}), NULL)::procrastinate_job_to_defer_v1
        ))""",
    ),
    Peer(
        name="pgqueuer",
        environment=PGQUEUER,
        script="with_pgqueuer.py",
        enqueue=f"""INSERT INTO pgqueuer (priority, entrypoint, payload, status)
            SELECT 0, 'push', convert_to({PAYLOAD}::text, 'UTF8'), 'queued'""",
    ),
    Peer(
        name="graphile-worker",
        environment=GRAPHILE,
        script="with_graphile.cjs",
        enqueue=GRAPHILE_LOCAL.enqueue,
    ),
    GRAPHILE_LOCAL,
)
