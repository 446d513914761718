"""Version 3's migration: it fails, having changed something first, which must be undone."""

from alembic import op

revision = "0003"
down_revision = "0002"
oldest_code = 1


def upgrade() -> None:
    """Add a column, then fail."""
    op.execute("ALTER TABLE tasks ADD COLUMN flavour text")
    op.execute("DO $$ BEGIN RAISE EXCEPTION 'this migration fails on purpose'; END $$")
