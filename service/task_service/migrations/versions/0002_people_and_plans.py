"""Users, schedules, the daily log and all else that people keep here."""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0002"
down_revision = "0001"
oldest_code = 1


def upgrade() -> None:
    """Make the tables, and widen those of the first schema."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
