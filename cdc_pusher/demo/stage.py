"""What the demo plays on: a Postgres and a sandbox EMP that run, and the configuration of a daemon between them.

Everything is in one directory, that of the embedded Postgres, which is removed with it.
"""

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cdc_pusher.database import Connection, connect
from cdc_pusher.demo.processes import Process, running
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.sql import queries

_sql = queries("demo")

EMP = "sandbox"
REQUEST_TIMEOUT_S = 2.0  # short, so that the claims of a killed daemon run out soon
RETRY_CAP_S = 1.0
QUIET_TIME_S = 0.5
CONCURRENCY = 16
_INSPECTION_TIMEOUT_S = 30.0


class Emp:
    """What the sandbox says of itself, beside the protocol."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def stats(self) -> dict[str, Any]:
        """Counts since the start."""
        stats: dict[str, Any] = await self._ask("GET", "/stats")
        return stats

    async def stations(self) -> dict[str, Any]:
        """All that it holds."""
        stations: dict[str, Any] = await self._ask("GET", "/stations")
        return stations

    async def ledger(self) -> list[dict[str, Any]]:
        """The requests since the start, or since `forget`."""
        entries: list[dict[str, Any]] = await self._ask("GET", "/ledger")
        return entries

    async def forget(self) -> None:
        """Empty the ledger; what it holds and its counts stay."""
        await self._ask("DELETE", "/ledger")

    async def misbehave(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Behave by these faults from now on; by none, well."""
        await self._ask("PUT", "/faults", json=list(rules))

    async def _ask(self, method: str, path: str, **content: Any) -> Any:
        try:
            answer = (await self._http.request(method, path, **content)).raise_for_status()
        except httpx.HTTPError as error:
            raise CdcPusherError(f"the sandbox does not answer: {type(error).__name__} at {method} {path}") from error
        return answer.json() if answer.content else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What runs, and where; `conn` is a connection of the CPO."""

    directory: Path
    dsn: str
    config: Path
    emp: Emp
    conn: Connection

    async def migrate(self) -> None:
        """`cdc-pusher migrate`, in a process of its own."""
        async with running(self.directory, "migration", "migrate", "--config", str(self.config)) as process:
            await process.wait()

    def daemon(self) -> AbstractAsyncContextManager[Process]:
        """`cdc-pusher run`, in a process of its own while the context is open."""
        return running(self.directory, "daemon", "run", "--config", str(self.config))

    async def outstanding(self) -> tuple[int, int]:
        """How much the daemon has still to do, and how many requests of that are under way, by its own tables."""
        row = await (await self.conn.execute(_sql.outstanding)).fetchone()
        assert row is not None
        return row["everything"], row["in_flight"]


@asynccontextmanager
async def set_stage(directory: Path, dsn: str, cpos: Mapping[str, str]) -> AsyncIterator[Stage]:
    """Start the sandbox, connect to it and to the database, and write the configuration of a daemon between them."""
    async with AsyncExitStack() as stack:
        key = secrets.token_urlsafe(24)
        arguments = ("sandbox", "--port", "0")
        sandbox = await stack.enter_async_context(running(directory, "sandbox", *arguments, env={"CDC_PUSHER_SANDBOX_API_KEY": key}))
        url = (await sandbox.first_line()).split()[-1]
        http = httpx.AsyncClient(base_url=httpx.URL(url).join("/"), trust_env=False, timeout=_INSPECTION_TIMEOUT_S)
        yield Stage(
            directory=directory,
            dsn=dsn,
            config=configure(directory, dsn=dsn, url=url, key=key, cpos=cpos),
            emp=Emp(await stack.enter_async_context(http)),
            conn=await stack.enter_async_context(await connect(dsn, "demo")),
        )


def configure(directory: Path, *, dsn: str, url: str, key: str, cpos: Mapping[str, str]) -> Path:
    """Write the configuration, and the API key into a file that only its owner may read."""
    key_file, config = directory / "sandbox.key", directory / "cdc-pusher.toml"
    key_file.touch(mode=0o600)
    key_file.write_text(key)
    settings = {"url": url, "partner_identifier": "sandbox-partner-0001", "api_key_file": str(key_file), "confirm_cpos": "automatic"}
    numbers = {"concurrency": CONCURRENCY, "request_timeout_s": REQUEST_TIMEOUT_S, "retry_cap_s": RETRY_CAP_S, "quiet_time_s": QUIET_TIME_S}
    lines = ["[database]", *_toml({"dsn": dsn}), "", f"[emp.{EMP}]", *_toml({**settings, **numbers}), "", f"[emp.{EMP}.cpos]", *_toml(cpos)]
    lines += ["", "[monitoring]", *_toml({"listen": ""})]  # whatever else runs on this machine
    config.write_text("\n".join([*lines, ""]))
    return config


def _toml(values: Mapping[str, Any]) -> list[str]:
    """Strings and numbers are written in TOML as in JSON."""
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


@asynccontextmanager
async def postgres() -> AsyncIterator[tuple[Path, str]]:
    """An embedded Postgres; yields a directory that goes with it, and its DSN."""
    with EmbeddedPostgres() as server:
        directory = Path(server.host) / "demo"
        directory.mkdir(mode=0o700)
        yield directory, server.dsn()
