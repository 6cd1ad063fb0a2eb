"""One scene for all tests of a module: the demo's stations, two EMPs, a daemon."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cpo_side import run

from cdc_pusher.embedded import EmbeddedPostgres
from page.scene import Scene, changes, scene


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(embedded_postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    run(embedded_postgres.dsn(), "CREATE DATABASE page")
    directory: Path = tmp_path_factory.mktemp("page")
    try:
        async with scene(embedded_postgres.dsn("page"), directory) as found:
            await changes(found, 1)
            yield found
    finally:
        run(embedded_postgres.dsn(), "DROP DATABASE page WITH (FORCE)")
