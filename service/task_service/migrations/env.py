"""Alembic's entry: runs the revisions on the connection that the runner hands over, or prints their
SQL.
"""

from alembic import context

from task_service.store.tables import metadata

config = context.config
connection = config.attributes.get("connection")

if connection is None:
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
else:
    context.configure(connection=connection, target_metadata=metadata)

with context.begin_transaction():
    context.run_migrations()
