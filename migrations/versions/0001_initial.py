"""The schema cdc_pusher: change log, outbox, audit trail, EMPs and CPOs, and the views for operators."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DOWNGRADE = """
DROP VIEW IF EXISTS cdc_pusher.station_state, cdc_pusher.delivery_lag, cdc_pusher.emp_progress, cdc_pusher.outbox_problems;
DROP FUNCTION IF EXISTS cdc_pusher.maintain_attempts;
DROP TABLE IF EXISTS
    cdc_pusher.attempt, cdc_pusher.capture, cdc_pusher.change, cdc_pusher.cpo, cdc_pusher.emp, cdc_pusher.evse, cdc_pusher.outbox;
DROP SEQUENCE IF EXISTS cdc_pusher.asleep, cdc_pusher.missed;
"""


def upgrade() -> None:
    text = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(text.replace("%", "%%"))  # psycopg would take a % for a parameter


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWNGRADE)
