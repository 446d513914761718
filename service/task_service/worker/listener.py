"""Being woken. Behind a transaction pooler nothing listens, and the poll does it alone."""

from collections.abc import Callable
from typing import Any

import asyncpg

WORKER_CHANNEL = "task_service_worker"


async def listen(
    connection: asyncpg.Connection, channel: str, on_message: Callable[[str], None]
) -> None:
    """Listen as long as the connection lives; what came before is not told. It is ended when that
    fails.
    """

    def hear(_connection: Any, _pid: int, _channel: str, message: object) -> None:
        on_message(str(message))

    try:
        await connection.add_listener(channel, hear)
    except BaseException:
        connection.terminate()
        raise
