"""The handler `conversations`: simulated work, then the task's conversations are processed."""

import asyncio
import random

from task_service.settings import Settings
from task_service.store.processing import process_conversations
from task_service.worker.handlers import Context, Handler, handler


def conversations(settings: Settings) -> Handler:
    """The handler that stands for some seconds of work, then processes the task's conversations and
    completes it.
    """
    shortest, longest = settings.conversations_min_seconds, settings.conversations_max_seconds

    @handler("conversations")
    async def run(context: Context) -> None:
        await asyncio.sleep(random.uniform(shortest, longest))  # noqa: S311 - not a secret
        async with context.transaction() as transaction:
            await process_conversations(transaction.connection, context.task_id)
            await transaction.complete()

    return run
