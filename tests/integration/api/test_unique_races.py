"""Concurrent creates with one unique key, step by step."""

import asyncio
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.ids import new_id
from task_service.enqueue import enqueue_async
from task_service.store.unique import KeyClaim, claim_keys
from tests.support.locks import wait_for_blocked_sessions
from tests.support.task_api import ClaimTask
from tests.support.unique_keys import create_new, finish_claim, post_unique

pytestmark = pytest.mark.asyncio


async def test_create_that_waits_for_another_returns_its_task(
    client: httpx.AsyncClient, connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await create_new(client, status="completed")
    transaction = other.transaction()
    await transaction.start()
    task = await enqueue_async(other, "noop", unique_key="k")
    waiting = asyncio.create_task(post_unique(client))
    await wait_for_blocked_sessions(connection, 1)
    await transaction.commit()
    response = await waiting
    assert (response.status_code, response.json()["id"]) == (200, str(task))


@pytest.mark.parametrize("before", ["nothing", "a finished task"])
async def test_create_that_waits_for_a_rolled_back_one_creates_the_task(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    other: asyncpg.Connection,
    before: str,
) -> None:
    if before == "a finished task":
        await create_new(client, status="completed")
    transaction = other.transaction()
    await transaction.start()
    await enqueue_async(other, "noop", unique_key="k")
    waiting = asyncio.create_task(post_unique(client))
    await wait_for_blocked_sessions(connection, 1)
    await transaction.rollback()
    assert (await waiting).status_code == 201


async def test_waiting_create_sees_that_the_task_completed(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    other: asyncpg.Connection,
    claim_task: ClaimTask,
) -> None:
    task = await create_new(client)
    claim = await claim_task(task)
    transaction = other.transaction()
    await transaction.start()
    assert await enqueue_async(other, "noop", unique_key="k") == UUID(task)
    waiting = asyncio.create_task(post_unique(client))
    await wait_for_blocked_sessions(connection, 1)
    await finish_claim(connection, claim)
    await transaction.commit()
    response = await waiting
    assert response.status_code == 201
    assert response.json()["id"] != task


async def test_batches_with_keys_in_opposite_order_do_not_deadlock(
    connection: asyncpg.Connection, database: str
) -> None:
    first, one, two = [await asyncpg.connect(database) for _ in range(3)]
    blocks = first.transaction()
    await blocks.start()
    await claim_keys(first, [KeyClaim("m", new_id(), None)])

    async def claim(connection: asyncpg.Connection, keys: str) -> None:
        async with connection.transaction():
            await claim_keys(connection, [KeyClaim(key, new_id(), None) for key in keys])

    claims = []
    for number, (of, keys) in enumerate(((one, "amz"), (two, "zma")), 1):
        claims.append(asyncio.create_task(claim(of, keys)))
        await wait_for_blocked_sessions(connection, number)
    await blocks.rollback()
    await asyncio.gather(*claims)
    assert await connection.fetchval("SELECT count(*) FROM unique_keys") == 3
    for each in (first, one, two):
        await each.close()
