"""Limits of queues and keys, unique tasks, progress of runs, tasks that need others."""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0004"
down_revision = "0003"
oldest_code = 1


def upgrade() -> None:
    """Make the tables, and widen those of before."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
