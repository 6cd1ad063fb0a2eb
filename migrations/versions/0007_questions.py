"""The views answer people: problems as sentences, how an EMP does, who waits for whom, what is in doubt; comments on all columns."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

VIEWS = ("outbox_problems", "emp_progress", "delivery_lag", "station_state")
DIRECTORY = Path(__file__).parent


def upgrade() -> None:
    op.get_bind().exec_driver_sql((DIRECTORY / "0007_questions.sql").read_text(encoding="utf-8").replace("%", "%%"))


def downgrade() -> None:
    initial = (DIRECTORY / "0001_initial.sql").read_text(encoding="utf-8")
    contract = (DIRECTORY / "0004_contract.sql").read_text(encoding="utf-8")
    former = [
        f"DROP VIEW IF EXISTS {', '.join(f'cdc_pusher.{view}' for view in VIEWS)};",
        initial[initial.index("CREATE VIEW cdc_pusher.outbox_problems") : initial.index("CREATE VIEW cdc_pusher.emp_progress")],
        contract[contract.index("CREATE OR REPLACE VIEW cdc_pusher.emp_progress") :],
        "COMMENT ON VIEW cdc_pusher.emp_progress IS 'Per EMP: the full load, and how many messages are where';",
        initial[initial.index("CREATE VIEW cdc_pusher.delivery_lag") :],
    ]
    op.get_bind().exec_driver_sql("\n".join(former).replace("%", "%%"))
