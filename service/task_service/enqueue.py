"""Enter tasks in a transaction of your own: with what else it writes, or not at all.

    from task_service.enqueue import enqueue

    with Session(engine) as session:
        session.add(order)
        enqueue(session, "send_invoice", {"order": order.id})
        session.commit()

It calls the function `enqueue_task` of the service's schema (any language can: `SELECT enqueue_task('send_invoice',
'{"order": 7}')`), so the connection must be one to the service's database. It needs only the caller's own driver.
"""

import json
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

TYPES = {
    "handler": "text", "payload": "jsonb", "title": "text", "queue": "text", "priority": "text",
    "run_at": "timestamptz", "max_attempts": "integer", "timeout_seconds": "integer", "tags": "text[]",
    "created_by": "text", "wake": "boolean", "limit_key": "text", "unique_key": "text", "unique_seconds": "integer",
}  # fmt: skip
"""The function's parameters."""
ASYNCPG, DB_API, SQLALCHEMY = "${number}::{type}", "%({name})s::{type}", "CAST(:{name} AS {type})"
"""How a parameter is written."""


class Options(TypedDict, total=False):
    """What may be said of a task; what is left out has the API's default."""

    title: str
    queue: str
    priority: str
    run_at: datetime
    max_attempts: int
    timeout_seconds: int
    tags: list[str]
    created_by: str
    wake: bool
    limit_key: str
    unique_key: str
    unique_seconds: int


def enqueue(connection: Any, handler: str, payload: Any = None, **options: Unpack[Options]) -> UUID:
    """Enter a task through a Session or Connection of SQLAlchemy, or a connection of psycopg2; return its id.

    `wake=False` leaves out the notification, for which transactions queue at their commit: workers then find the task
    within POLL_SECONDS. Where a task holds the `unique_key` already, its id is returned, and nothing is written. A bad
    value is the driver's error for SQLSTATE 22023; its message names the field.
    """
    given = _given(handler, payload, options)
    if hasattr(connection, "cursor"):
        with connection.cursor() as cursor:
            cursor.execute(_call(given, DB_API), given)
            return UUID(str(cursor.fetchone()[0]))
    from sqlalchemy import text  # noqa: PLC0415 - whoever passes its connection has it

    return UUID(str(connection.execute(text(_call(given, SQLALCHEMY)), given).scalar_one()))


async def enqueue_async(connection: Any, handler: str, payload: Any = None, **options: Unpack[Options]) -> UUID:
    """As `enqueue`, through an AsyncSession or AsyncConnection of SQLAlchemy, or a connection of asyncpg."""
    given = _given(handler, payload, options)
    if hasattr(connection, "fetchval"):
        return UUID(str(await connection.fetchval(_call(given, ASYNCPG), *given.values())))
    from sqlalchemy import text  # noqa: PLC0415 - whoever passes its connection has it

    result = await connection.execute(text(_call(given, SQLALCHEMY)), given)
    return UUID(str(result.scalar_one()))


def _given(handler: str, payload: Any, options: Options) -> dict[str, Any]:
    if unknown := options.keys() - TYPES.keys():
        raise TypeError(f"enqueue() has no option {', '.join(sorted(unknown))}")
    return {"handler": handler, "payload": None if payload is None else json.dumps(payload, allow_nan=False), **options}


def _call(given: dict[str, Any], written: str) -> str:
    """The call with these parameters.

    >>> _call({"handler": "mail", "tags": ["x"]}, ASYNCPG)
    'SELECT enqueue_task(handler => $1::text, tags => $2::text[])'
    """
    parameters = (
        f"{name} => {written.format(number=number, name=name, type=TYPES[name])}"
        for number, name in enumerate(given, 1)
    )
    return f"SELECT enqueue_task({', '.join(parameters)})"
