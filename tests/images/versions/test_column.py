"""Version 2's migration: it only expands, so version 1 goes on working while it is rolled out."""

from pathlib import Path

from alembic import op

number = int(Path(__file__).name[:4])  # given by add_version.py
revision, down_revision = f"{number:04}", f"{number - 1:04}"


def upgrade() -> None:
    """Add a column that nothing needs yet."""
    op.execute("ALTER TABLE tasks ADD COLUMN color text")
