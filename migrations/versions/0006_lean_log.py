"""The change log without CHECK constraints, which cost the CPO's triggers as much as the row itself."""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DOWNGRADE = """
ALTER TABLE IF EXISTS cdc_pusher.change
    ADD CONSTRAINT change_resend_is_known CHECK (resend IN ('undelivered', 'statuses', 'everything')) NOT VALID,
    ADD CONSTRAINT change_a_watch_comes_with_its_row
        CHECK ((watch IS NULL) = (source_row IS NULL) AND (watch IS NULL OR station_id IS NULL)) NOT VALID
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").replace("%", "%%"))


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWNGRADE)
