"""The built-in handlers."""

from task_service.settings import Settings
from task_service.worker.builtin.conversations import conversations
from task_service.worker.builtin.webhook import webhook
from task_service.worker.handlers import Context, Handler, handler


@handler("noop")
async def noop(_: Context) -> None:
    """Do nothing: for measurements and for trying out a queue."""


def builtin_handlers(settings: Settings) -> list[Handler]:
    """Return the handlers that need no further package."""
    return [noop, conversations(settings), webhook(settings)]
