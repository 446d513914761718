"""${message}."""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
oldest_code = 1  # the oldest release's code that works on this schema: raise it only when you contract


def upgrade() -> None:
    """Say what this expands. Additions only; see docs/decisions on migrations."""
