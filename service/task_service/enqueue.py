"""Enter tasks in a transaction of your own: with what else it writes, or not at all.

    from task_service.enqueue import enqueue

    with Session(engine) as session:
        session.add(order)
        enqueue(session, "send_invoice", {"order": order.id})
        session.commit()

It calls the functions `enqueue_task` and `enqueue_tasks` of the service's schema (any language can: `SELECT
enqueue_task('send_invoice', '{"order": 7}')`), so the connection must be one to the service's database. It needs only
the caller's own driver.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, TypedDict, Unpack
from uuid import UUID

from task_service.domain.fields import clean_text, storable_json

TYPES = {
    "handler": "text", "payload": "text", "payloads": "text[]", "title": "text", "queue": "text", "priority": "text",
    "run_at": "timestamptz", "max_attempts": "integer", "timeout_seconds": "integer", "tags": "text[]",
    "created_by": "text", "wake": "boolean", "limit_key": "text", "unique_key": "text", "unique_seconds": "integer",
    "needs": "text[]", "when_failed": "text",
}  # fmt: skip
"""The functions' parameters."""
MADE = {"payload": "jsonb", "payloads": "jsonb[]", "needs": "uuid[]"}
"""What the server makes of texts: a connection may have an encoder of its own for JSON, or none for ids."""
RESULTS = {"enqueue_task": "text", "enqueue_tasks": "text[]"}
"""What every driver reads without being told how."""
ASYNCPG, DB_API, SQLALCHEMY = "${number}::{type}", "%({name})s::{type}", "CAST(:{name} AS {type})"
"""How a parameter is written."""
CHUNK = 10_000
"""Tasks in one call."""
encode = json.JSONEncoder(allow_nan=False).encode


class ManyOptions(TypedDict, total=False):
    """What may be said of tasks; what is left out has the API's default."""

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
    needs: Sequence[UUID]
    when_failed: Literal["cancel", "run"]


class Options(ManyOptions, total=False):
    """What may be said of one task."""

    unique_key: str
    unique_seconds: int


def enqueue(connection: Any, handler: str, payload: Any = None, **options: Unpack[Options]) -> UUID:
    """Enter a task through a Session or Connection of SQLAlchemy, or a connection of psycopg2; return its id.

    `wake=False` leaves out the notification, for which transactions queue at their commit: workers then find the task
    within POLL_SECONDS. It runs when all tasks that it `needs` have ended; they may have been entered in the same
    transaction. Where a task holds the `unique_key` already, its id is returned, and nothing is written. A bad
    value is a ValueError before anything is sent, or the driver's error for SQLSTATE 22023; both name the field.
    """
    return UUID(_run(connection, "enqueue_task", _one(handler, payload, options)))


def enqueue_many(
    connection: Any, handler: str, payloads: Iterable[Any], **options: Unpack[ManyOptions]
) -> list[UUID]:
    """Enter a task for each payload, all with the same options: many times as quick as one by one.

    Returns their ids in the order of the payloads.
    """
    many = _many(handler, payloads, options)
    return [UUID(task) for given in many for task in _run(connection, "enqueue_tasks", given)]


async def enqueue_async(
    connection: Any, handler: str, payload: Any = None, **options: Unpack[Options]
) -> UUID:
    """As `enqueue`, through an AsyncSession or AsyncConnection of SQLAlchemy, or a connection of asyncpg."""
    return UUID(await _run_async(connection, "enqueue_task", _one(handler, payload, options)))


async def enqueue_many_async(
    connection: Any, handler: str, payloads: Iterable[Any], **options: Unpack[ManyOptions]
) -> list[UUID]:
    """As `enqueue_many`, through what `enqueue_async` takes."""
    many = _many(handler, payloads, options)
    return [
        UUID(task)
        for given in many
        for task in await _run_async(connection, "enqueue_tasks", given)
    ]


def _run(connection: Any, function: str, given: dict[str, Any]) -> Any:
    if hasattr(connection, "cursor"):
        with connection.cursor() as cursor:
            cursor.execute(_call(function, given, DB_API), given)
            return cursor.fetchone()[0]
    from sqlalchemy import text  # noqa: PLC0415 - whoever passes its connection has it

    return connection.execute(text(_call(function, given, SQLALCHEMY)), given).scalar_one()


async def _run_async(connection: Any, function: str, given: dict[str, Any]) -> Any:
    if hasattr(connection, "fetchval"):
        return await connection.fetchval(_call(function, given, ASYNCPG), *given.values())
    from sqlalchemy import text  # noqa: PLC0415 - whoever passes its connection has it

    return (await connection.execute(text(_call(function, given, SQLALCHEMY)), given)).scalar_one()


def _one(handler: str, payload: Any, options: Options) -> dict[str, Any]:
    return {
        "handler": handler,
        "payload": _json(payload),
        **_known(options, Options.__optional_keys__),
    }


def _many(handler: str, payloads: Iterable[Any], options: ManyOptions) -> Iterator[dict[str, Any]]:
    known, rest = _known(options, ManyOptions.__optional_keys__), iter(payloads)
    while chunk := [_json(payload) for payload in islice(rest, CHUNK)]:
        yield {"handler": handler, "payloads": chunk, **known}


def _json(payload: Any) -> str | None:
    """As ASCII, which a connection of any encoding takes."""
    if payload is None:
        return None
    try:
        text = encode(payload)
        if "\\u" in text:  # may be what PostgreSQL cannot keep
            storable_json(payload)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"payload: {error}") from error
    return text


def _known(options: ManyOptions, known: frozenset[str]) -> dict[str, Any]:
    if unknown := options.keys() - known:
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
    for name, value in options.items():
        for text in value if isinstance(value, list) else [value]:
            _require_storable(name, text)
    return (
        {**options, "needs": [_id(need) for need in options["needs"]]}
        if "needs" in options
        else {**options}
    )


def _require_storable(name: str, value: Any) -> None:
    try:
        if isinstance(value, str):
            clean_text(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _id(need: UUID) -> str:
    try:
        return str(UUID(str(need)))
    except ValueError as error:
        raise ValueError(f"needs: {need!r} is no task's id") from error


def _call(function: str, given: dict[str, Any], written: str) -> str:
    """The call with these parameters.

    >>> _call("enqueue_task", {"handler": "mail", "payload": "1"}, ASYNCPG)
    'SELECT CAST(enqueue_task(handler => $1::text, payload => CAST($2::text AS jsonb)) AS text)'
    """
    parameters = []
    for number, name in enumerate(given, 1):
        value = written.format(number=number, name=name, type=TYPES[name])
        parameters.append(
            f"{name} => {f'CAST({value} AS {MADE[name]})' if name in MADE else value}"
        )
    return f"SELECT CAST({function}({', '.join(parameters)}) AS {RESULTS[function]})"
