"""Rows of watches with a sub-select, paced sweeps and what they healed, what was granted, functions for a role that owns nothing."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DOWNGRADE = """
DROP VIEW IF EXISTS cdc_pusher.emp_progress;
DROP TABLE IF EXISTS cdc_pusher.granted;
DROP FUNCTION IF EXISTS cdc_pusher.refresh_statistics;
ALTER FUNCTION cdc_pusher.maintain_attempts SECURITY INVOKER RESET search_path;
ALTER TABLE IF EXISTS cdc_pusher.cpo DROP CONSTRAINT IF EXISTS cpo_confirmed_with_an_identifier;
DELETE FROM cdc_pusher.change WHERE watch IS NOT NULL;
ALTER TABLE IF EXISTS cdc_pusher.change DROP COLUMN IF EXISTS watch, DROP COLUMN IF EXISTS source_row;
ALTER TABLE IF EXISTS cdc_pusher.emp
    DROP CONSTRAINT IF EXISTS emp_walk_next_is_known,
    DROP CONSTRAINT IF EXISTS emp_a_next_walk_follows_one,
    DROP CONSTRAINT IF EXISTS emp_only_a_sweep_has_a_pace,
    DROP COLUMN IF EXISTS walk_pace,
    DROP COLUMN IF EXISTS walk_due_at,
    DROP COLUMN IF EXISTS sweep_started_at,
    DROP COLUMN IF EXISTS sweep_completed_at,
    DROP COLUMN IF EXISTS healed,
    DROP COLUMN IF EXISTS healed_at;
ALTER TABLE IF EXISTS cdc_pusher.emp ALTER COLUMN walk_next TYPE boolean USING walk_next IS NOT NULL;
ALTER TABLE IF EXISTS cdc_pusher.emp RENAME COLUMN walk_next TO walk_again;
ALTER TABLE IF EXISTS cdc_pusher.emp ALTER COLUMN walk_again SET DEFAULT false;
ALTER TABLE IF EXISTS cdc_pusher.emp ALTER COLUMN walk_again SET NOT NULL;
"""
DIRECTORY = Path(__file__).parent


def upgrade() -> None:
    text = (DIRECTORY / "0002_at_home.sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text.replace("%", "%%"))


def downgrade() -> None:
    former = (DIRECTORY / "0001_initial.sql").read_text(encoding="utf-8")
    view = former[former.index("CREATE VIEW cdc_pusher.emp_progress") : former.index("CREATE VIEW cdc_pusher.delivery_lag")]
    op.get_bind().exec_driver_sql((DOWNGRADE + view).replace("%", "%%"))
