"""The span of a run: its parent, attributes and events."""

import asyncio
import threading
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from task_service.queue import entries
from task_service.telemetry import add_span_attributes, add_span_event, traced_operation
from task_service.worker.handlers import Context, Discard, Snooze, handler
from tests.support.spans import ended, span_memory
from tests.support.tasks import add_tasks
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio

TRACE, CALLER = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACE_CONTEXT = f"00-{TRACE:032x}-{CALLER:016x}-01"


@pytest.fixture(autouse=True)
def _clear_spans() -> None:
    span_memory().clear()


async def runs(name: str, number: int = 1) -> list[ReadableSpan]:
    """Wait until there are `number` spans of the handler's runs, and return them."""

    async def find_spans() -> list[ReadableSpan]:
        found = ended(f"run {name}")
        return found if len(found) >= number else []

    return await eventually(f"{number} spans of {name}", find_spans)


def events(span: ReadableSpan) -> dict[str, dict[str, Any]]:
    """Return the span's events by name."""
    return {event.name: dict(event.attributes or {}) for event in span.events}


def trace_of(span: ReadableSpan) -> tuple[int, int | None]:
    """Return the ids of the span's trace and parent."""
    assert span.context is not None
    return span.context.trace_id, span.parent and span.parent.span_id


async def test_every_attempt_is_a_child_of_the_request_with_its_outcome(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("flaky")
    async def flaky(context: Context) -> None:
        add_span_attributes(seen=context.attempt)
        if context.attempt == 1:
            raise ValueError("not yet")

    worker = await start_worker(flaky, otel_enabled=True)
    [task] = await add_tasks(connection, handler="flaky", trace_context=TRACE_CONTEXT)
    first, second = await runs("flaky", 2)
    assert trace_of(first) == trace_of(second) == (TRACE, CALLER)
    expected = {
        "task.id": str(task),
        "task.handler": "flaky",
        "task.queue": "default",
        "task.attempt": 1,
        "seen": 1,
        "worker.id": str(worker.instance_id),
        "task.outcome": "failed",
    }
    assert dict(first.attributes or {}) == expected
    assert (first.status.status_code, first.status.description) == (
        StatusCode.ERROR,
        "ValueError: not yet",
    )
    assert "raise ValueError" in events(first)["exception"]["exception.stacktrace"]
    assert "delay_seconds" in events(first)["retried"]
    assert second.status.status_code is StatusCode.UNSET
    assert (second.attributes or {})["task.outcome"] == "completed"


async def test_spans_of_a_threaded_handler_are_children_of_the_run(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @traced_operation("on the loop")
    async def on_the_loop() -> None:
        await asyncio.sleep(0)

    @handler("function")
    def function(context: Context) -> bool:
        with traced_operation("in the thread"):
            context.wait(on_the_loop())
        return threading.current_thread() is threading.main_thread()

    await start_worker(function, otel_enabled=True)
    await add_tasks(connection, handler="function", trace_context=TRACE_CONTEXT)
    [run] = await runs("function")
    [inner], [innermost] = ended("in the thread"), ended("on the loop")
    assert run.context is not None
    assert inner.context is not None
    assert trace_of(inner) == (TRACE, run.context.span_id)
    assert trace_of(innermost) == (TRACE, inner.context.span_id)


async def test_tasks_without_a_trace_context_start_separate_traces(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("scheduled")
    async def scheduled(_: Context) -> None:
        add_span_event("worked")

    await start_worker(scheduled, otel_enabled=True, worker_concurrency=1)
    await add_tasks(connection, 5, handler="scheduled")  # the runs follow each other directly
    traces = [trace_of(span) for span in await runs("scheduled", 5)]
    assert len({trace for trace, _ in traces}) == 5
    assert {parent for _, parent in traces} == {None}


async def test_cancelled_run_has_an_event_and_no_error_status(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    begun = asyncio.Event()

    @handler("endless")
    async def endless(_: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    await start_worker(endless, otel_enabled=True)
    [task] = await add_tasks(connection, handler="endless")
    await begun.wait()
    await entries.request_cancel(connection, task)
    [span] = await runs("endless")
    assert "cancelled" in events(span)
    assert (span.attributes or {})["task.outcome"] == "cancelled"
    assert span.status.status_code is StatusCode.UNSET


async def test_timed_out_discarded_and_snoozed_runs_have_events(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("slow", timeout_seconds=0.1)
    async def slow(_: Context) -> None:
        await asyncio.Event().wait()

    @handler("useless")
    async def useless(_: Context) -> None:
        raise Discard("no such picture")

    @handler("early")
    async def early(_: Context) -> None:
        raise Snooze(60)

    await start_worker(slow, useless, early, otel_enabled=True)
    await add_tasks(connection, handler="slow", max_attempts=1)
    await add_tasks(connection, handler="useless")
    await add_tasks(connection, handler="early")
    [slow_run], [useless_run], [early_run] = (
        await runs("slow"),
        await runs("useless"),
        await runs("early"),
    )
    assert "timed_out" in events(slow_run)
    assert slow_run.status.status_code is StatusCode.ERROR
    assert useless_run.status.description == "no such picture"
    assert events(early_run)["snoozed"]["delay_seconds"] == 60
    assert early_run.status.status_code is StatusCode.UNSET


async def test_run_that_lost_its_claim_has_the_outcome_lost(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("overtaken")
    async def overtaken(context: Context) -> None:
        await connection.execute(
            "UPDATE queue SET fence = fence + 1 WHERE task_id = $1", context.task_id
        )
        async with context.transaction():
            pass

    await start_worker(overtaken, otel_enabled=True)
    await add_tasks(connection, handler="overtaken")
    [span] = await runs("overtaken")
    assert (span.attributes or {})["task.outcome"] == "lost"


async def test_completion_in_a_transaction_has_the_outcome_completed(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("within")
    async def within(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()

    await start_worker(within, otel_enabled=True)
    await add_tasks(connection, handler="within")
    [span] = await runs("within")
    assert (span.attributes or {})["task.outcome"] == "completed"


async def test_run_has_no_span_when_tracing_is_disabled(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    done: list[UUID] = []

    @handler("plain")
    async def plain(context: Context) -> None:
        done.append(context.task_id)

    await start_worker(plain)
    [task] = await add_tasks(connection, handler="plain", trace_context=TRACE_CONTEXT)
    await eventually("the run", lambda: asyncio.sleep(0, done))
    assert done == [task]
    assert not span_memory().get_finished_spans()
