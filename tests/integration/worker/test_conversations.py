"""The handler `conversations`: how long its simulated work takes, and what it does then."""

import asyncio
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from task_service.worker import builtin
from tests.integration.worker.conftest import StartWorker
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, statuses
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
TASKS, SHORTEST, LONGEST = 60, 10.0, 20.0
PENDING = "SELECT count(*) FROM conversations WHERE status = 'pending'"


async def test_it_works_for_a_time_between_its_two_settings_and_then_processes_the_conversations(
    database: str,
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worked: list[float] = []
    is_over = asyncio.Event()

    async def work(seconds: float) -> None:
        worked.append(seconds)
        await is_over.wait()

    monkeypatch.setattr(builtin, "asyncio", SimpleNamespace(sleep=work))
    tasks = await add_tasks(connection, TASKS, handler="conversations")
    insertion = "INSERT INTO conversations (id, task_id, body) SELECT gen_random_uuid(), unnest($1::uuid[]), '1'"
    await connection.execute(insertion, tasks)
    given: dict[str, Any] = {
        "conversations_min_seconds": SHORTEST,
        "conversations_max_seconds": LONGEST,
    }
    await start_worker(
        builtin.conversations(settings_for(database, **given)), worker_concurrency=TASKS
    )

    async def all_work() -> bool:
        return len(worked) == TASKS

    await eventually("all runs' work", all_work)
    assert (await connection.fetchval(PENDING), set(await statuses(connection, tasks))) == (
        TASKS,
        {"processing"},
    )
    assert SHORTEST <= min(worked) < 13
    assert 17 < max(worked) <= LONGEST
    is_over.set()

    async def all_done() -> bool:
        return set(await statuses(connection, tasks)) == {"completed"}

    await eventually("all runs' end", all_done)
    assert await connection.fetchval(PENDING) == 0
    assert len(worked) == TASKS
