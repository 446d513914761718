"""The `conversations` handler: duration of its simulated work, and its result."""

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from task_service.worker.builtin.conversations import conversations
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, statuses
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio
TASKS, SHORTEST, LONGEST = 60, 10.0, 20.0
INSERT_CONVERSATIONS = """
    INSERT INTO conversations (id, task_id, body)
    SELECT gen_random_uuid(), unnest($1::uuid[]), '1'
"""
PENDING = "SELECT count(*) FROM conversations WHERE status = 'pending'"


async def test_handler_works_for_the_configured_time_then_processes_conversations(
    database: str,
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worked: list[float] = []
    finish = asyncio.Event()

    async def work(seconds: float) -> None:
        worked.append(seconds)
        await finish.wait()

    module = importlib.import_module(conversations.__module__)
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=work))
    tasks = await add_tasks(connection, TASKS, handler="conversations")
    await connection.execute(INSERT_CONVERSATIONS, tasks)
    settings: dict[str, Any] = {
        "conversations_min_seconds": SHORTEST,
        "conversations_max_seconds": LONGEST,
    }
    await start_worker(conversations(settings_for(database, **settings)), worker_concurrency=TASKS)

    async def all_running() -> bool:
        return len(worked) == TASKS

    await eventually("all runs", all_running)
    assert (await connection.fetchval(PENDING), set(await statuses(connection, tasks))) == (
        TASKS,
        {"processing"},
    )
    assert SHORTEST <= min(worked) < 13
    assert 17 < max(worked) <= LONGEST
    finish.set()

    async def all_done() -> bool:
        return set(await statuses(connection, tasks)) == {"completed"}

    await eventually("all runs' end", all_done)
    assert await connection.fetchval(PENDING) == 0
    assert len(worked) == TASKS
