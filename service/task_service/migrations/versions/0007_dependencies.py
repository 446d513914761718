"""Tasks that wait for other tasks."""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0007"
down_revision = "0006"
oldest_code = 1


def upgrade() -> None:
    """Make the tables, and what the view shows of them."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
