"""Handlers that only tests use: an installed package that offers entry points, as a user's own
would.
"""

import asyncio
import threading
import time
from typing import Any

from task_service.worker import Context, handler

MAKE_TABLE = """
    CREATE TABLE IF NOT EXISTS side_effects (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        task_id uuid NOT NULL,
        fence bigint NOT NULL,
        worker_id uuid NOT NULL,
        phase text NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
"""
TABLE_LOCK = (
    7_305_612_448_900  # CREATE TABLE IF NOT EXISTS by two sessions at once fails for one of them
)


def _seconds(context: Context) -> float:
    return float((context.payload or {}).get("seconds", 1))


@handler("sleep")
async def sleep(context: Context) -> dict[str, Any]:
    """Wait for payload `seconds`; a cancellation ends it at once."""
    await asyncio.sleep(_seconds(context))
    return {"slept": _seconds(context)}


@handler("hog")
def hog(context: Context) -> None:
    """Take payload `mebibytes` of memory, touching every page, and hold it for `seconds`: to be
    killed for it.
    """
    taken = bytearray(b"x") * (int(context.payload["mebibytes"]) << 20)
    threading.Event().wait(_seconds(context))
    del taken


@handler("spin")
def spin(context: Context) -> None:
    """Keep a thread busy for payload `seconds`, deaf to cancellation."""
    end = time.monotonic() + _seconds(context)
    while time.monotonic() < end:
        pass


@handler("side_effect")
async def side_effect(context: Context) -> None:
    """Write a row at the begin, wait for payload `seconds`, write a row at the end and complete in
    the same commit.
    """
    await _note(context, "begin")
    await asyncio.sleep(_seconds(context))
    await _note(context, "end")


async def _note(context: Context, phase: str) -> None:
    async with context.transaction() as transaction:
        connection = transaction.connection
        if await connection.fetchval("SELECT to_regclass('side_effects') IS NULL"):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", TABLE_LOCK)
            await connection.execute(MAKE_TABLE)
        insert = (
            "INSERT INTO side_effects (task_id, fence, worker_id, phase) VALUES ($1, $2, $3, $4)"
        )
        await connection.execute(insert, context.task_id, context.fence, context.worker_id, phase)
        if phase == "end":
            await transaction.complete({"fence": context.fence})
