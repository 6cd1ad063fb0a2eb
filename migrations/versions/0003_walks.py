"""Walks have a number, and the audit trail can be in a publication."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DOWNGRADE = """
ALTER TABLE IF EXISTS cdc_pusher.attempt_default REPLICA IDENTITY DEFAULT;
ALTER TABLE IF EXISTS cdc_pusher.emp DROP COLUMN walk_no;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").replace("%", "%%"))


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWNGRADE)
