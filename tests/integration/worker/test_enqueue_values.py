"""Values that `enqueue` rejects, and the errors that name the field."""

import json
from typing import Any

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.enqueue import enqueue_async, enqueue_many_async
from tests.support.enqueue_clients import Client

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queue", "no name!"),
        ("queue", None),
        ("title", " "),
        ("title", "x" * 201),
        ("priority", "soon"),
        ("max_attempts", 0),
        ("max_attempts", 101),
        ("timeout_seconds", 0),
        ("tags", ["x"] * 11),
        ("tags", ["x" * 51]),
        ("tags", [None]),
        ("created_by", "x" * 101),
        ("handler", ""),
        ("handler", "ä"),
        ("payload", "x" * 262_144),
        ("unique_key", "no key"),
        ("unique_seconds", 60),
        ("needs", [new_id()]),
        ("needs", [new_id()] * 101),
        ("when_failed", "wait"),
    ],
)
async def test_invalid_value_error_names_the_field(
    connection: asyncpg.Connection, field: str, value: Any
) -> None:
    values = {"handler": "mail", field: value}
    with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^{field}: "):
        await enqueue_async(connection, **values)
    if not field.startswith("unique"):
        values["payloads"] = [None, values.pop("payload", None), 1]
        with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^{field}: "):
            await enqueue_many_async(connection, **values)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


async def test_unknown_option_is_rejected(connection: asyncpg.Connection) -> None:
    with pytest.raises(TypeError, match="unknown option: unique_key"):
        await enqueue_many_async(connection, "mail", [], unique_key="order-7")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown option: colour"):
        await enqueue_async(connection, "mail", colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("payload", float("nan"), "JSON"),
        ("payload", {1}, "set"),
        ("payload", {"a": ["b\x00"]}, "NUL"),
        ("payload", {"\ud800": 1}, "surrogate"),
        ("title", "a\x00b", "NUL"),
        ("tags", ["a", "\ud800"], "surrogate"),
    ],
)
async def test_unstorable_value_is_rejected_before_anything_is_sent(
    client: Client, connection: asyncpg.Connection, field: str, value: Any, message: str
) -> None:
    values = {"payload": None} | {field: value}
    with pytest.raises(ValueError, match=f"^{field}: .*{message}"):
        await client.enqueue("mail", **values)
    values["payloads"] = [1, values.pop("payload")]
    with pytest.raises(ValueError, match=f"^{field}: .*{message}"):
        await client.enqueue_many("mail", **values)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


async def test_escaped_nul_in_a_payload_is_stored(connection: asyncpg.Connection) -> None:
    payload = {"path": "c:\\u0000", "name": "Zoë \u2603"}
    task = await enqueue_async(connection, "mail", payload)
    assert (
        json.loads(await connection.fetchval("SELECT payload FROM tasks WHERE id = $1", task))
        == payload
    )


async def test_invalid_need_is_rejected(connection: asyncpg.Connection) -> None:
    for needs in (["seven"], [None], "abc"):
        with pytest.raises(ValueError, match=r"^needs: "):
            await enqueue_async(connection, "mail", needs=needs)  # type: ignore[arg-type]


async def test_unique_seconds_has_limits(connection: asyncpg.Connection) -> None:
    for seconds in (0, 31_536_001):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=r"^unique_seconds: "):
            await enqueue_async(connection, "mail", unique_key="k", unique_seconds=seconds)
