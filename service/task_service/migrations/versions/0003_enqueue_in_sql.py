"""A function that enters a task for a worker: for whoever has a connection, in their own
transaction.
"""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0003"
down_revision = "0002"
oldest_code = 1


def upgrade() -> None:
    """Make the functions."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
