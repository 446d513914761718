"""What revision a database is at."""

from sqlalchemy import Connection, text

from task_service.migrations import SchemaState


def read_state(connection: Connection) -> SchemaState | None:
    """Return the database's schema state; None when it was never migrated."""
    if connection.execute(text("SELECT to_regclass('schema_state')")).scalar() is None:
        return None
    row = connection.execute(text("SELECT revision, oldest_code FROM schema_state")).first()
    return SchemaState(row.revision, row.oldest_code) if row else None
