"""What the status page shows and no table had: the minutes of each EMP, its last error, and words to search stations by."""

from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DOWNGRADE = """
DROP TABLE IF EXISTS cdc_pusher.minute;
DROP INDEX IF EXISTS cdc_pusher.outbox_words;
ALTER TABLE IF EXISTS cdc_pusher.emp
    DROP CONSTRAINT IF EXISTS emp_an_error_has_its_time,
    DROP COLUMN IF EXISTS last_error,
    DROP COLUMN IF EXISTS last_error_at;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").replace("%", "%%"))


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWNGRADE)
