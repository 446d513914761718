"""Read through the cache. A read that decides a change, or must agree with other rows, uses the
database instead.
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.services.transactions import TransactionManager
from task_service.store import tasks as store
from task_service.store.cache.cache import Missing
from task_service.store.tasks import TaskRow


async def read_task(transactions: TransactionManager, task_id: UUID) -> TaskRow | None:
    """Return the task from the cache or the database; None when it does not exist or is deleted.

    The task is never older than an update that was acknowledged before the call. When the writer of
    the update could not reach Redis, it is at most five seconds older. For every route that shows
    one task.
    """
    cached = await transactions.cache.read(task_id)
    if isinstance(cached, TaskRow):
        return cached
    async with transactions.read() as connection:
        task = await store.read_task(connection, task_id)
    if cached is not None and task is not None:
        await transactions.cache.fill(cached, task_id, task)
    return task


async def read_day(
    transactions: TransactionManager,
    name: str,
    render: Callable[[AsyncConnection], Awaitable[bytes]],
) -> bytes:
    """Return a response body made only of the daily log, from the cache or by `render`.

    `name` identifies the body, for example by date and page. Code that changes the daily log calls
    `cache.forget_daily_log` in the same transaction, opened by `TransactionManager.write`.
    """
    cached = await transactions.cache.read_day(name)
    if isinstance(cached, bytes):
        return cached
    async with transactions.read() as connection:
        body = await render(connection)
    if isinstance(cached, Missing):
        await transactions.cache.fill_day(cached, name, body)
    return body
