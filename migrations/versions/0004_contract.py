"""What a lane has learnt of its EMP: messages that fail for long, requests that may be processed late, a breaker."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DOWNGRADE = """
DROP VIEW IF EXISTS cdc_pusher.emp_progress;
ALTER TABLE IF EXISTS cdc_pusher.outbox
    DROP COLUMN IF EXISTS failing_since,
    DROP COLUMN IF EXISTS strikes,
    DROP COLUMN IF EXISTS uncertain_at;
ALTER TABLE IF EXISTS cdc_pusher.emp
    DROP CONSTRAINT IF EXISTS emp_an_open_breaker_has_its_reason,
    DROP COLUMN IF EXISTS breaker_reason,
    DROP COLUMN IF EXISTS breaker_open_since,
    DROP COLUMN IF EXISTS breaker_probe_at;
"""
DIRECTORY = Path(__file__).parent


def upgrade() -> None:
    op.get_bind().exec_driver_sql((DIRECTORY / "0004_contract.sql").read_text(encoding="utf-8").replace("%", "%%"))


def downgrade() -> None:
    former = (DIRECTORY / "0002_at_home.sql").read_text(encoding="utf-8")
    view = former[former.index("CREATE OR REPLACE VIEW cdc_pusher.emp_progress") :]
    view += "COMMENT ON VIEW cdc_pusher.emp_progress IS 'Per EMP: the full load, and how many messages are where';"
    op.get_bind().exec_driver_sql((DOWNGRADE + view).replace("%", "%%"))
