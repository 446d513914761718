"""Version 2's migration: it only expands, so version 1 goes on working while it is rolled out."""

from alembic import op

revision = "0002"
down_revision = "0001"
oldest_code = 1


def upgrade() -> None:
    """Add a column that nothing needs yet."""
    op.execute("ALTER TABLE tasks ADD COLUMN color text")
