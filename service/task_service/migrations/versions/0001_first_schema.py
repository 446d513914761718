"""The first schema."""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0001"
down_revision = None
oldest_code = 1


def upgrade() -> None:
    """Make every table, index and view."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
