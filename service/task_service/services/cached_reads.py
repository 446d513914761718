"""Reading through the cache. What decides a change, or must agree with other rows, is read from the database."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.services.context import Context
from task_service.store import tasks as store
from task_service.store.cache.cache import Missing
from task_service.store.tasks import TaskRow


async def read_task(context: Context, task_id: UUID) -> TaskRow | None:
    """The task, from the cache when it is there; None when there is none, or it is deleted.

    Never older than an update that was acknowledged before the call (when a writer did not reach Redis: five seconds
    before). For every route that shows one task.
    """
    found = await context.cache.read(task_id)
    if isinstance(found, TaskRow):
        return found
    async with context.reading() as connection:
        task = await store.read_task(connection, task_id)
    if found is not None and task is not None:
        await context.cache.fill(found, task_id, task)
    return task


async def read_day(
    context: Context, name: str, make: Callable[[AsyncConnection], Awaitable[bytes]]
) -> bytes:
    """An answer made of the daily log alone, from the cache when it is there; `name` says which, such as date and page.

    Whoever changes the daily log (the loader; a hard delete does it already) calls
    `context.cache.forget_daily_log(connection)` in that transaction, which must be one of `context.write`.
    """
    found = await context.cache.read_day(name)
    if isinstance(found, bytes):
        return found
    async with context.reading() as connection:
        body = await make(connection)
    if isinstance(found, Missing):
        await context.cache.fill_day(found, name, body)
    return body
