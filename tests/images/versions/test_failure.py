"""Version 3's migration: it fails, having changed something first, which must be undone."""

from pathlib import Path

from alembic import op

number = int(Path(__file__).name[:4])  # given by add_version.py
revision, down_revision = f"{number:04}", f"{number - 1:04}"


def upgrade() -> None:
    """Add a column, then fail."""
    op.execute("ALTER TABLE tasks ADD COLUMN flavour text")
    op.execute("DO $$ BEGIN RAISE EXCEPTION 'this migration fails on purpose'; END $$")
