"""The database of a CPO whose EVSEs change, before anything watches it: what every way to push them begins with.

The tables are those of examples/reference_schema.sql, with four connectors a station, each an EVSE of its own.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from bench.fleet import CONNECTORS, FILL, TOGGLE
from bench.large import REFERENCE_SCHEMA
from cdc_pusher.embedded import EmbeddedPostgres

STORM = "UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END"
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND client_port IS NOT NULL"


class Cpo:
    """A database with `stations`, for the length of a `with` block; what its workers keep in files goes into `directory`."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, name: str, *, stations: int) -> None:
        self.dsn, self.directory, self.name = server.dsn(name), directory, name
        self.evses = [f"DE*8PS*E{n}*{c}" for n in range(1, stations + 1) for c in range(1, CONNECTORS + 1)]
        self.environ = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": "postgres", "PGDATABASE": name}
        self._server, self._stations = server, stations

    def __enter__(self) -> Self:
        self._maintain("CREATE DATABASE {}")
        self._conn = psycopg.connect(self.dsn, autocommit=True)
        self.sql(REFERENCE_SCHEMA.read_text())
        for statement in FILL:
            self.sql(statement, 1, self._stations)
        self.sql("VACUUM ANALYZE")
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()
        self._maintain("DROP DATABASE {} WITH (FORCE)")

    def sql(self, statement: str, *values: Any) -> list[Any]:
        cursor = self._conn.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *values: Any) -> Any:
        return self.sql(query, *values)[0][0]

    def toggle(self, evse: str) -> float:
        """Change the status of one EVSE. Returns when the statement, its commit included, had returned (time.time())."""
        self.sql(TOGGLE, evse)
        return time.time()

    def storm(self) -> float:
        """Change all statuses in one statement. Returns its seconds, its commit included."""
        began = time.monotonic()
        self.sql(STORM)
        return time.monotonic() - began

    def triggers(self, state: str) -> None:
        self.sql(f"ALTER TABLE connector {state} TRIGGER USER")

    def tidy(self) -> None:
        """What the server would do sooner or later is done before something is measured."""
        self.sql("VACUUM ANALYZE connector")
        self.sql("CHECKPOINT")

    def statuses(self) -> dict[str, str]:
        return dict(self.sql("SELECT evse_id, status FROM connector"))

    def wrong(self, told: Mapping[str, str]) -> int:
        """How many EVSEs have another status than an EMP was told."""
        return sum(told.get(evse) != status for evse, status in self.statuses().items())

    def sessions(self) -> Sequence[int]:
        """The process ids of the others' sessions on the server."""
        return [pid for (pid,) in self.sql(SESSIONS)]

    def _maintain(self, statement: str) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL(statement).format(sql.Identifier(self.name)))
