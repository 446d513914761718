"""The handlers that come with the product."""

import asyncio
import random

from task_service.settings import Settings
from task_service.store.processing import process_conversations
from task_service.worker.handlers import Context, Handler, handler
from task_service.worker.webhook import webhook


@handler("noop")
async def noop(_: Context) -> None:
    """Do nothing: for measuring, and for trying a queue out."""


def conversations(settings: Settings) -> Handler:
    """The handler that stands for some seconds of work, then processes the task's conversations and completes it."""
    shortest, longest = settings.conversations_min_seconds, settings.conversations_max_seconds

    @handler("conversations")
    async def run(context: Context) -> None:
        await asyncio.sleep(random.uniform(shortest, longest))  # noqa: S311 - no secret
        async with context.transaction() as transaction:
            await process_conversations(transaction.connection, context.task_id)
            await transaction.complete()

    return run


def builtin_handlers(settings: Settings) -> list[Handler]:
    """Everything that needs no further package."""
    return [noop, conversations(settings), webhook(settings)]
