"""Enqueue tasks in your own transaction, atomically with its other writes.

    from task_service.enqueue import enqueue

    with Session(engine) as session:
        session.add(order)
        enqueue(session, "send_invoice", {"order": order.id})
        session.commit()

It calls the functions `enqueue_task` and `enqueue_tasks` of the service's schema, so the connection
must be to the service's database. Other languages can call them too: `SELECT
enqueue_task('send_invoice', '{"order": 7}')`. Only the caller's own driver is required.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, TypedDict, Unpack
from uuid import UUID

from task_service.domain.fields import clean_text, storable_json

TYPES = {
    "handler": "text",
    "payload": "text",
    "payloads": "text[]",
    "title": "text",
    "queue": "text",
    "priority": "text",
    "run_at": "timestamptz",
    "max_attempts": "integer",
    "timeout_seconds": "integer",
    "tags": "text[]",
    "created_by": "text",
    "wake": "boolean",
    "limit_key": "text",
    "unique_key": "text",
    "unique_seconds": "integer",
    "needs": "text[]",
    "when_failed": "text",
}
"""Parameters of the functions, with their types."""
CASTS = {"payload": "jsonb", "payloads": "jsonb[]", "needs": "uuid[]"}
"""Types that the server casts text to: drivers differ in their JSON and UUID codecs."""
RESULTS = {"enqueue_task": "text", "enqueue_tasks": "text[]"}
"""Result types that every driver decodes."""
ASYNCPG, DB_API, SQLALCHEMY = "${number}::{type}", "%({name})s::{type}", "CAST(:{name} AS {type})"
"""Parameter styles of the drivers."""
CHUNK = 10_000
"""Maximum number of tasks per call."""
encode = json.JSONEncoder(allow_nan=False).encode


class ManyOptions(TypedDict, total=False):
    """Options of tasks. Omitted ones have the API's default."""

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
    """Options of a single task."""

    unique_key: str
    unique_seconds: int


def enqueue(connection: Any, handler: str, payload: Any = None, **options: Unpack[Options]) -> UUID:
    """Enqueue a task through a SQLAlchemy Session or Connection, or a psycopg2 connection.

    Returns the task's id. If another task holds the `unique_key`, its id is returned and nothing is
    written. The task runs once all tasks in `needs` have ended; they may be part of the same
    transaction. `wake=False` omits the notification, which serializes commits: workers then find
    the task within POLL_SECONDS. An invalid value raises ValueError before anything is sent, or the
    driver's error for SQLSTATE 22023. Both name the field.
    """
    return UUID(_run(connection, "enqueue_task", _one(handler, payload, options)))


def enqueue_many(
    connection: Any, handler: str, payloads: Iterable[Any], **options: Unpack[ManyOptions]
) -> list[UUID]:
    """Enqueue a task per payload, all with the same options, much faster than one by one.

    Returns the ids in the order of the payloads.
    """
    many = _many(handler, payloads, options)
    return [UUID(task) for given in many for task in _run(connection, "enqueue_tasks", given)]


async def enqueue_async(
    connection: Any, handler: str, payload: Any = None, **options: Unpack[Options]
) -> UUID:
    """Enqueue a task through a SQLAlchemy AsyncSession or AsyncConnection, or asyncpg."""
    return UUID(await _run_async(connection, "enqueue_task", _one(handler, payload, options)))


async def enqueue_many_async(
    connection: Any, handler: str, payloads: Iterable[Any], **options: Unpack[ManyOptions]
) -> list[UUID]:
    """Enqueue a task per payload through a connection that `enqueue_async` accepts."""
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
    from sqlalchemy import text  # noqa: PLC0415 - installed if its connection is passed

    return connection.execute(text(_call(function, given, SQLALCHEMY)), given).scalar_one()


async def _run_async(connection: Any, function: str, given: dict[str, Any]) -> Any:
    if hasattr(connection, "fetchval"):
        return await connection.fetchval(_call(function, given, ASYNCPG), *given.values())
    from sqlalchemy import text  # noqa: PLC0415 - installed if its connection is passed

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
    """Encode as ASCII, which every connection encoding accepts."""
    if payload is None:
        return None
    try:
        text = encode(payload)
        if "\\u" in text:  # may be invalid in PostgreSQL
            storable_json(payload)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"payload: {error}") from error
    return text


def _known(options: ManyOptions, known: frozenset[str]) -> dict[str, Any]:
    if unknown := options.keys() - known:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
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
        raise ValueError(f"needs: {need!r} is not a task id") from error


def _call(function: str, given: dict[str, Any], written: str) -> str:
    """Return the SQL call with these parameters.

    >>> _call("enqueue_task", {"handler": "mail", "payload": "1"}, ASYNCPG)
    'SELECT CAST(enqueue_task(handler => $1::text, payload => CAST($2::text AS jsonb)) AS text)'
    """
    parameters = []
    for number, name in enumerate(given, 1):
        value = written.format(number=number, name=name, type=TYPES[name])
        parameters.append(
            f"{name} => {f'CAST({value} AS {CASTS[name]})' if name in CASTS else value}"
        )
    return f"SELECT CAST({function}({', '.join(parameters)}) AS {RESULTS[function]})"
