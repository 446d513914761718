"""`run_inline` says of a handler what a worker makes of it, and lends it a transaction of the test's connection."""

from typing import Any

import asyncpg
import orjson
import pytest

from task_service.domain.outcomes import Outcome
from task_service.testing import run_inline_async
from task_service.worker import Context, handler
from tests.integration.worker.conftest import StartWorker, add, end_of
from tests.support.authors.authors_handlers import EVERY, coroutine, thread

pytestmark = pytest.mark.asyncio
CASES = [
    *(
        {"do": "fail", "how": how}
        for how in ("exit", "base", "unreadable", "long", "surrogate", "cancel", "discard")
    ),
    *({"do": "give", "what": what} for what in ("set", "nan", "huge")),
]


@pytest.mark.parametrize("handler", [thread, coroutine], ids=lambda handler: handler.name)
async def test_it_is_what_a_worker_makes_of_it(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: Any
) -> None:
    await start_worker(*EVERY, lease_seconds=30, heartbeat_seconds=1)
    for case in CASES:
        payload = case if handler is thread else case | {"do": f"{case['do']}_async"}
        inline = await run_inline_async(handler, payload, max_attempts=1)
        end = await end_of(connection, await add(connection, handler.name, **payload))
        result = None if end["result"] is None else orjson.loads(end["result"])
        assert (inline.outcome, inline.result) == (end["outcome"], result)
        assert _last_line(inline.error) == _last_line(end["error"])


def _last_line(error: str | None) -> str | None:
    return error and error.rstrip().rsplit("\n", 1)[-1]


async def test_a_transaction_is_one_of_the_given_connection(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TABLE effects (text text)")

    @handler("writes")
    async def writes(context: Context) -> str:
        async with context.transaction() as transaction:
            await transaction.connection.execute("INSERT INTO effects VALUES ($1)", context.payload)
            if context.payload != "later":
                await transaction.complete({"said": context.payload})
            if context.payload == "no":
                raise ValueError("after all, no")
        return "returned"

    ended = await run_inline_async(writes, "yes", connection=connection)
    assert (ended.outcome, ended.result) == (Outcome.COMPLETED, {"said": "yes"})
    assert (await run_inline_async(writes, "no", connection=connection)).outcome == Outcome.FAILED
    assert (await run_inline_async(writes, "later", connection=connection)).result == "returned"
    assert [row["text"] for row in await connection.fetch("SELECT text FROM effects")] == [
        "yes",
        "later",
    ]


@pytest.mark.parametrize(
    ("words", "said", "error"),
    [
        ([(0.25,), (1, "all")], [(0.25, None), (1.0, "all")], None),
        ([(0.5, "x" * 300)], [(0.5, "x" * 200)], None),
        ([(0.5, "\x00" * 150)], [(0.5, "\\0" * 100)], None),
        ([(0.5, "a \ud800 and a \x00")], [(0.5, "a \\ud800 and a \\0")], None),
        ([(0.5,), (1.1,)], [(0.5, None)], "ValueError: progress is a number from 0 to 1, not 1.1"),
        ([(-0.1,)], [], "ValueError: progress is a number from 0 to 1, not -0.1"),
        ([(float("nan"),)], [], "ValueError: progress is a number from 0 to 1, not nan"),
        ([("half",)], [], "TypeError: progress is a number from 0 to 1, not a str"),
        ([(True,)], [], "TypeError: progress is a number from 0 to 1, not a bool"),
        ([(None,)], [], "TypeError: progress is a number from 0 to 1, not a NoneType"),
        ([(0.5, 7)], [], "TypeError: the note of a progress is text, not a int"),
    ],
)
async def test_it_records_what_is_said_of_the_progress_and_refuses_what_is_none(
    words: list[Any], said: list[Any], error: str | None
) -> None:
    @handler("tells")
    def tells(context: Context) -> None:
        for word in words:
            context.progress(*word)

    ended = await run_inline_async(tells)
    assert list(ended.progress) == said
    assert _last_line(ended.error) == error


async def test_a_result_that_cannot_be_kept_is_refused_in_the_transaction(
    connection: asyncpg.Connection,
) -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete({1, 2})

    assert "not JSON" in str((await run_inline_async(writes, connection=connection)).error)
