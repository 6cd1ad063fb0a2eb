"""Runs the migrations on the connection that `cdc_pusher.migrate` hands over; for `alembic …`, on one of the configuration."""

import psycopg
from alembic import context
from sqlalchemy import Connection, create_engine

from cdc_pusher import config
from cdc_pusher.names import SCHEMA
from cdc_pusher.schema import metadata


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA, include_schemas=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    dsn = config.load().database.dsn
    with create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn)).connect() as opened:
        run(opened)
