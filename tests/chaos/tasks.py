"""Tasks of a chaos run, and their creation exactly once despite outages."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

import asyncpg
import httpx

from task_service.enqueue import enqueue_async
from tests.chaos.system import CONNECTION_ERRORS, System

MIX = {
    "quick": (44.5, 0.0, 0.0),
    "sleep": (15, 0.1, 2.0),
    "thread": (5, 0.05, 0.5),
    "isolated": (0.5, 0.1, 3.0),
    "complete": (13, 0.0, 1.2),
    "write": (8, 0.0, 1.2),
    "fail": (3, 0.0, 0.0),
    "flaky": (4, 0.0, 0.0),
    "retry": (4, 0.0, 0.3),
    "snooze": (3, 0.0, 0.5),
}
"""Handlers with their share in percent and the limits of the payload in seconds."""
LONG_SHARE, LONG_SECONDS = 0.02, (2.5, 4.0)
"""Share and duration of sleeping tasks that sleep longer than a lease."""
FAIL_ATTEMPTS, ATTEMPTS = 2, 30
RETRY_SECONDS = 0.3
Attempt: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task to be created, with a unique title."""

    title: str
    handler: str
    seconds: float

    @property
    def max_attempts(self) -> int:
        """Few for the handler that always fails; otherwise more than the faults can use up."""
        return FAIL_ATTEMPTS if self.handler == "fail" else ATTEMPTS


def draw(seed: int, first: int, count: int) -> list[PlannedTask]:
    """Draw the tasks numbered from `first`, which are the same for the same seed."""
    random = Random(f"{seed} {first}")
    handlers = random.choices(list(MIX), [share for share, _, _ in MIX.values()], k=count)
    return [
        PlannedTask(f"chaos {first + n}", name, _seconds(random, name))
        for n, name in enumerate(handlers)
    ]


def _seconds(random: Random, handler: str) -> float:
    long = handler == "sleep" and random.random() < LONG_SHARE
    return round(random.uniform(*(LONG_SECONDS if long else MIX[handler][1:])), 3)


async def create(system: System, planned: Sequence[PlannedTask], *, over_http: bool) -> None:
    """Create the tasks in one request or transaction, repeated until it is known to be done."""
    attempt = _request(system, planned) if over_http else _transaction(system, planned)
    while True:
        try:
            await attempt()
            return
        except (*CONNECTION_ERRORS, httpx.HTTPError):
            await asyncio.sleep(RETRY_SECONDS)


def _request(system: System, planned: Sequence[PlannedTask]) -> Attempt:
    """Return a request to `POST /api/v1/tasks:batch` with an idempotency key."""
    body = {"tasks": [_fields(planned_task) for planned_task in planned]}
    headers = {"Idempotency-Key": planned[0].title.replace(" ", "-")}

    async def post() -> None:
        await system.request("POST", "/api/v1/tasks:batch", json=body, headers=headers)

    return post


def _fields(planned_task: PlannedTask) -> dict[str, Any]:
    return {
        "title": planned_task.title,
        "handler": planned_task.handler,
        "payload": planned_task.seconds,
        "max_attempts": planned_task.max_attempts,
    }


def _transaction(system: System, planned: Sequence[PlannedTask]) -> Attempt:
    """Return a transaction that enqueues the tasks and inserts a row for the batch."""

    async def insert() -> None:
        connection = await system.connect()
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO chaos_batches VALUES ($1)", planned[0].title)
                for d in planned:
                    await enqueue_async(
                        connection, d.handler, d.seconds, title=d.title, max_attempts=d.max_attempts
                    )
        except asyncpg.UniqueViolationError:
            return  # committed before, but the response was lost
        finally:
            connection.terminate()

    return insert
