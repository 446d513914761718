"""How far a run is: columns of the queue, shown by the view."""

from pathlib import Path

from alembic import op

from task_service.migrations import statements

revision = "0006"
down_revision = "0005"
oldest_code = 1


def upgrade() -> None:
    """Add the columns."""
    for statement in statements(Path(__file__).with_suffix(".sql").read_text()):
        op.execute(statement)
