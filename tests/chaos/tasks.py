"""The tasks of a chaos run: what they are, and how they are created whatever is away, each exactly once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

import asyncpg
import httpx

from task_service.enqueue import enqueue_async
from tests.chaos.stage import AWAY, Stage

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
"""Handlers: how many of a hundred, and the payload's bounds in seconds."""
LONG_SHARE, LONG_SECONDS = 0.02, (2.5, 4.0)
"""Of the tasks that sleep, so many sleep longer than a lease."""
FAIL_ATTEMPTS, ATTEMPTS = 2, 30
RETRY_SECONDS = 0.3
Attempt: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Draft:
    """A task to be created; its title tells it from all others."""

    title: str
    handler: str
    seconds: float

    @property
    def max_attempts(self) -> int:
        """Few for what always fails; for others more than the faults can use up."""
        return FAIL_ATTEMPTS if self.handler == "fail" else ATTEMPTS


def draw(seed: int, first: int, count: int) -> list[Draft]:
    """The tasks numbered from `first`; the same ones for the same seed."""
    random = Random(f"{seed} {first}")
    handlers = random.choices(list(MIX), [share for share, _, _ in MIX.values()], k=count)
    return [
        Draft(f"chaos {first + n}", name, _seconds(random, name)) for n, name in enumerate(handlers)
    ]


def _seconds(random: Random, handler: str) -> float:
    long = handler == "sleep" and random.random() < LONG_SHARE
    return round(random.uniform(*(LONG_SECONDS if long else MIX[handler][1:])), 3)


async def create(stage: Stage, drafts: Sequence[Draft], *, over_http: bool) -> None:
    """Create them in one request or one transaction, trying again until that is known to have happened."""
    attempt = _request(stage, drafts) if over_http else _transaction(stage, drafts)
    while True:
        try:
            await attempt()
            return
        except (*AWAY, httpx.HTTPError):
            await asyncio.sleep(RETRY_SECONDS)


def _request(stage: Stage, drafts: Sequence[Draft]) -> Attempt:
    """`POST /api/v1/tasks:batch` with a key: sent again, it creates nothing twice."""
    body = {"tasks": [_fields(draft) for draft in drafts]}
    headers = {"Idempotency-Key": drafts[0].title.replace(" ", "-")}

    async def post() -> None:
        await stage.request("POST", "/api/v1/tasks:batch", json=body, headers=headers)

    return post


def _fields(draft: Draft) -> dict[str, Any]:
    return {
        "title": draft.title,
        "handler": draft.handler,
        "payload": draft.seconds,
        "max_attempts": draft.max_attempts,
    }


def _transaction(stage: Stage, drafts: Sequence[Draft]) -> Attempt:
    """A program beside the service enters them in a transaction of its own, with a row of its own."""

    async def enter() -> None:
        connection = await stage.connect()
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO chaos_batches VALUES ($1)", drafts[0].title)
                for d in drafts:
                    await enqueue_async(
                        connection, d.handler, d.seconds, title=d.title, max_attempts=d.max_attempts
                    )
        except asyncpg.UniqueViolationError:
            return  # the commit was done, its answer lost
        finally:
            connection.terminate()

    return enter
