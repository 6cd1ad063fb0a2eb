"""An upgrade without a pause: daemons of this version and of the next one work side by side on the next one's schema."""

import shutil
from pathlib import Path

import psycopg
import pytest
from rig import KEY, Rig, rig, until

from cdc_pusher import migrate, revision
from cdc_pusher.database import connect
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.sandbox import Sandbox, SandboxSettings

PROJECT = Path(__file__).parent.parent
NEXT = "9000"
EXPANDING = f'''"""What the next version may do while this one is at work: add."""

from alembic import op

revision = "{NEXT}"
down_revision = "{revision.head()}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("outbox", "emp", "capture", "lease", "daemon", "evse"):
        op.execute(f"ALTER TABLE cdc_pusher.{{table}} ADD COLUMN novelty text NOT NULL DEFAULT 'new'")


def downgrade() -> None:
    pass
'''


def next_version(directory: Path) -> Path:
    """A checkout of a next version, with a migration that only adds."""
    for name in ("cdc_pusher", "migrations"):
        shutil.copytree(PROJECT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "migrations" / "versions" / f"{NEXT}_next.py").write_text(EXPANDING)
    init = directory / "cdc_pusher" / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "', '__version__ = "9.'))
    return directory


async def test_this_version_and_the_next_one_serve_together_and_nothing_is_lost(dsn: str, tmp_path: Path) -> None:
    async with Sandbox(SandboxSettings(api_key=KEY)) as alpha, Sandbox(SandboxSettings(api_key=KEY)) as beta, rig(dsn, tmp_path) as rigged:
        rigged.add_emp("alpha", alpha)
        rigged.add_emp("beta", beta)
        await rigged.build("s1", "s2")
        old = await rigged.ready_daemon()
        await rigged.quiet()
        checkout = next_version(tmp_path / "next")
        await rigged.plain_command("migrate", "--config", str(rigged.config), checkout=checkout)
        assert await rigged.value("SELECT version_num FROM cdc_pusher.alembic_version") == NEXT
        new = rigged.daemon(checkout=checkout)
        await new.ready()
        await until(lambda: shared(rigged), "both have leases")
        versions = await rigged.sql("SELECT DISTINCT version FROM cdc_pusher.daemon")
        assert len(versions) == 2
        await rigged.set_status("s1", "Occupied")
        await rigged.quiet()
        another_old = await rigged.ready_daemon()  # the machine of the old one has been started again
        await old.stop()
        await rigged.set_status("s2", "Occupied")
        await rigged.quiet()
        await another_old.stop()
        await rigged.set_status("s1", "Offline")
        await rigged.quiet()
        for emp in (alpha, beta):
            last = {e["key"]: e["payload"]["status"] for e in emp.ledger if e["kind"] == "status"}
            assert last == {"DE*8PS*ES1*1": "Offline", "DE*8PS*ES2*1": "Occupied"}
            assert emp.stats()["accepted"]["station"] == 2
            assert emp.stats()["overlaps"] == 0


async def shared(rigged: Rig) -> bool:
    held = await rigged.value("SELECT count(DISTINCT holder) FROM cdc_pusher.lease WHERE expires_at > clock_timestamp()")
    return bool(held == 2)


@pytest.mark.parametrize(("oldest", "works"), [(revision.head(), True), (NEXT, False), (None, False)])
async def test_a_schema_of_the_future_is_worked_with_if_it_says_so(oldest: str | None, works: bool, dsn: str) -> None:
    migrate.to(dsn)
    with psycopg.connect(dsn) as admin:
        admin.execute("UPDATE cdc_pusher.alembic_version SET version_num = %s, oldest_program = %s", (NEXT, oldest))
    async with await connect(dsn, "test") as conn:
        if works:
            await revision.require_current(conn)
        else:
            with pytest.raises(ConfigurationError, match="upgrade the program"):
                await revision.require_current(conn)
