"""`run_inline` gives the same results as a worker and uses the test's connection."""

from typing import Any

import asyncpg
import orjson
import pytest

from task_service.domain.outcomes import Outcome
from task_service.testing import run_inline_async
from task_service.worker import Context, handler
from tests.support.handler_package.sample_handlers import ALL_HANDLERS, coroutine, thread
from tests.support.worker_runs import StartWorker, add_handler_task, wait_for_end

pytestmark = pytest.mark.asyncio
CASES = [
    *(
        {"do": "fail", "how": how}
        for how in ("exit", "base", "unreadable", "long", "surrogate", "cancel", "discard")
    ),
    *({"do": "return_value", "what": what} for what in ("set", "nan", "huge")),
]


@pytest.mark.parametrize("handler", [thread, coroutine], ids=lambda handler: handler.name)
async def test_inline_run_ends_like_a_run_in_a_worker(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: Any
) -> None:
    await start_worker(*ALL_HANDLERS, lease_seconds=30, heartbeat_seconds=1)
    for case in CASES:
        payload = case if handler is thread else case | {"do": f"{case['do']}_async"}
        inline = await run_inline_async(handler, payload, max_attempts=1)
        end = await wait_for_end(
            connection, await add_handler_task(connection, handler.name, **payload)
        )
        result = None if end["result"] is None else orjson.loads(end["result"])
        assert (inline.outcome, inline.result) == (end["outcome"], result)
        assert _last_line(inline.error) == _last_line(end["error"])


def _last_line(error: str | None) -> str | None:
    return error and error.rstrip().rsplit("\n", 1)[-1]


async def test_transaction_uses_the_given_connection(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TABLE effects (text text)")

    @handler("writes")
    async def writes(context: Context) -> str:
        async with context.transaction() as transaction:
            await transaction.connection.execute("INSERT INTO effects VALUES ($1)", context.payload)
            if context.payload != "later":
                await transaction.complete({"payload": context.payload})
            if context.payload == "no":
                raise ValueError("after all, no")
        return "returned"

    ended = await run_inline_async(writes, "yes", connection=connection)
    assert (ended.outcome, ended.result) == (Outcome.COMPLETED, {"payload": "yes"})
    assert (await run_inline_async(writes, "no", connection=connection)).outcome == Outcome.FAILED
    assert (await run_inline_async(writes, "later", connection=connection)).result == "returned"
    assert [row["text"] for row in await connection.fetch("SELECT text FROM effects")] == [
        "yes",
        "later",
    ]


@pytest.mark.parametrize(
    ("calls", "recorded", "error"),
    [
        ([(0.25,), (1, "all")], [(0.25, None), (1.0, "all")], None),
        ([(0.5, "x" * 300)], [(0.5, "x" * 200)], None),
        ([(0.5, "\x00" * 150)], [(0.5, "\\0" * 100)], None),
        ([(0.5, "a \ud800 and a \x00")], [(0.5, "a \\ud800 and a \\0")], None),
        (
            [(0.5,), (1.1,)],
            [(0.5, None)],
            "ValueError: progress must be a number from 0 to 1, not 1.1",
        ),
        ([(-0.1,)], [], "ValueError: progress must be a number from 0 to 1, not -0.1"),
        ([(float("nan"),)], [], "ValueError: progress must be a number from 0 to 1, not nan"),
        ([("half",)], [], "TypeError: progress must be a number from 0 to 1, not a str"),
        ([(True,)], [], "TypeError: progress must be a number from 0 to 1, not a bool"),
        ([(None,)], [], "TypeError: progress must be a number from 0 to 1, not a NoneType"),
        ([(0.5, 7)], [], "TypeError: the progress note must be text, not a int"),
    ],
)
async def test_progress_is_recorded_and_invalid_progress_is_rejected(
    calls: list[Any], recorded: list[Any], error: str | None
) -> None:
    @handler("reports")
    def reports(context: Context) -> None:
        for call in calls:
            context.progress(*call)

    ended = await run_inline_async(reports)
    assert list(ended.progress) == recorded
    assert _last_line(ended.error) == error


async def test_unserializable_result_is_rejected_in_the_transaction(
    connection: asyncpg.Connection,
) -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete({1, 2})

    assert "not JSON" in str((await run_inline_async(writes, connection=connection)).error)
