"""Databases of the legacy services A to E, with the schemas of docs/importing.md."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres

A = """
    CREATE TYPE task_status AS ENUM (
        'PENDING', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CANCELLED'
    );
    CREATE TABLE tasks (
        id uuid PRIMARY KEY, title varchar NOT NULL, description text,
        status task_status NOT NULL DEFAULT 'PENDING',
        created_at timestamptz DEFAULT now(), updated_at timestamptz
    );
"""
B = """
    CREATE TABLE tasks (
        id serial PRIMARY KEY, title varchar(255) NOT NULL, description text,
        status varchar(20) DEFAULT 'pending', priority varchar(20), due_date date,
        created_at timestamp DEFAULT now(), updated_at timestamp
    );
    CREATE TABLE settings (key varchar(100) PRIMARY KEY, value text, description text);
"""
C = """
    CREATE TABLE tasks (
        id serial PRIMARY KEY, title varchar, description text,
        status varchar DEFAULT 'pending', created_at timestamp DEFAULT now(),
        updated_at timestamp DEFAULT now(), processed_at timestamp,
        processing_instance_id varchar
    );
    CREATE TABLE conversations (
        id serial PRIMARY KEY, task_id integer, content text, status varchar DEFAULT 'pending',
        created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now()
    );
"""
D = """
    CREATE TABLE users (
        id serial PRIMARY KEY, username varchar UNIQUE, hashed_password varchar,
        role varchar DEFAULT 'viewer', is_active boolean DEFAULT true,
        created_at timestamp DEFAULT now()
    );
    CREATE TABLE tasks (
        id serial PRIMARY KEY, title varchar, description text, status varchar DEFAULT 'active',
        created_by integer REFERENCES users (id), created_at timestamp DEFAULT now(),
        updated_at timestamp, is_deleted boolean DEFAULT false
    );
    CREATE TABLE task_audit_log (
        id serial PRIMARY KEY, task_id integer, previous_status varchar, new_status varchar,
        modified_by integer REFERENCES users (id), timestamp timestamp DEFAULT now()
    );
    CREATE TABLE daily_log (
        id serial PRIMARY KEY, task_id integer, title varchar, status varchar, date date
    );
    CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
"""
E = """
    CREATE TABLE tasks (
        id uuid PRIMARY KEY, title varchar(200) NOT NULL, description varchar(2000),
        status varchar(20) NOT NULL, priority varchar(10) NOT NULL, assigned_to varchar(100),
        due_date timestamptz, tags jsonb DEFAULT '[]',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(), completed_at timestamptz
    );
"""


@asynccontextmanager
async def legacy_database(
    postgres: EmbeddedPostgres, schema: str
) -> AsyncIterator[tuple[str, asyncpg.Connection]]:
    """Create a database with this schema; yield its URL and a connection to it."""
    name = f"source_{new_id().hex}"
    admin = await asyncpg.connect(postgres.url())
    await admin.execute(f"CREATE DATABASE {name}")
    connection = await asyncpg.connect(postgres.url(name))
    try:
        await connection.execute(schema)
        yield postgres.url(name), connection
    finally:
        await connection.close()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def count_rows(connection: asyncpg.Connection) -> dict[str, int]:
    """Count the rows of our own tables."""
    tables = (
        "tasks",
        "conversations",
        "users",
        "settings",
        "task_history",
        "runs",
        "queue",
        "daily_log",
    )
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables}
