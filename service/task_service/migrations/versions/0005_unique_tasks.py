"""Unique tasks: keys that a task holds, and the function that claims them."""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0005"
down_revision = "0003"
oldest_code = 1


def upgrade() -> None:
    """Make the table, its view and its function; `enqueue_task` takes a key."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
