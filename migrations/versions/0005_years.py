"""Many daemons on one database: leases; tables that stay small for years."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DOWNGRADE = """
DROP TABLE IF EXISTS cdc_pusher.lease, cdc_pusher.daemon;
ALTER TABLE IF EXISTS cdc_pusher.emp DROP COLUMN IF EXISTS lane_epoch, DROP COLUMN IF EXISTS timeline;
ALTER TABLE IF EXISTS cdc_pusher.capture DROP COLUMN IF EXISTS epoch;
ALTER TABLE IF EXISTS cdc_pusher.alembic_version DROP COLUMN IF EXISTS oldest_program;
ALTER TABLE IF EXISTS cdc_pusher.change RESET (
    vacuum_truncate, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_insert_scale_factor,
    autovacuum_vacuum_insert_threshold, autovacuum_analyze_scale_factor, autovacuum_analyze_threshold, autovacuum_vacuum_cost_delay
);
ALTER TABLE IF EXISTS cdc_pusher.outbox RESET (
    fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay
);
ALTER TABLE IF EXISTS cdc_pusher.evse RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
ALTER TABLE IF EXISTS cdc_pusher.emp RESET (fillfactor);
ALTER TABLE IF EXISTS cdc_pusher.capture RESET (fillfactor);
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").replace("%", "%%"))


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWNGRADE)
