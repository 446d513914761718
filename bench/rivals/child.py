"""One process of one product: prepares a database, produces tasks, or works.

    python -m bench.rivals.child ADAPTOR prepare|produce|work URL QUEUE BOARD SLOT

A producer and a worker say `ready` when everything is imported. A producer then answers each line
of its input, a worker waits for one line and works; both end with their input. Standard library
only.
"""

import asyncio
import contextlib
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from bench.rivals.adaptors import Producer
from bench.rivals.board import Board

Command: TypeAlias = Callable[..., Awaitable[None]]
TICK_SECONDS = 0.005
"""Between two commits of a steady load."""


async def produce(adaptor: ModuleType, url: str, queue: str, board: Board) -> None:
    """Carry out `spaced FIRST COUNT LEAST MOST`, `load FIRST COUNT RATE`, or one of the others with
    FIRST COUNT.

    Each is answered by a line with the seconds that it took.
    """
    async with adaptor.producer(url, queue) as producer:
        commands: dict[str, Command] = {
            "one": each("one"), "through_service": each("through_service"), "many": whole("many"),
            "many_through_service": whole("many_through_service"), "at_once": at_once(adaptor), "spaced": spaced,
            "load": load,
        }  # fmt: skip
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *given = line.split()
            began = time.monotonic()
            await commands[name](producer, board, *map(float, given))
            say(json.dumps(time.monotonic() - began))


def each(method: str) -> Command:
    """One by one, as quickly as it goes, by this method of the producer."""

    async def enter(producer: Producer, _: Board, first: float, count: float) -> None:
        for number in range(int(first), int(first + count)):
            await getattr(producer, method)(number)

    return enter


def whole(method: str) -> Command:
    """All at once, by this method of the producer."""

    async def enter(producer: Producer, _: Board, first: float, count: float) -> None:
        await getattr(producer, method)(range(int(first), int(first + count)))

    return enter


def at_once(adaptor: ModuleType) -> Command:
    """All in one commit."""

    async def enter(producer: Producer, board: Board, first: float, count: float) -> None:
        vars(adaptor)["CHUNK"] = int(count)
        await whole("many")(producer, board, first, count)

    return enter


async def spaced(
    producer: Producer, board: Board, first: float, count: float, *seconds: float
) -> None:
    """One by one, with a pause of `seconds` (least, most) before each: what an idle worker is
    given.
    """
    draw = random.Random(1)
    for number in range(int(first), int(first + count)):
        await asyncio.sleep(draw.uniform(*seconds))
        await producer.one(number)
        board.commit(number)


async def load(producer: Producer, board: Board, first: float, count: float, rate: float) -> None:
    """So many tasks at a steady rate per second, in commits of what has come due since the last
    one.
    """
    began, sent = time.monotonic(), 0
    while sent < count:
        due = min(int((time.monotonic() - began) * rate), int(count))
        numbers = range(int(first) + sent, int(first) + due)
        if numbers:
            await producer.many(numbers)
            for number in numbers:
                board.commit(number)
            sent = due
        await asyncio.sleep(TICK_SECONDS)


async def work(adaptor: ModuleType, url: str, queue: str, board: Board) -> None:
    """Work from the first line of input until it ends, or SIGTERM."""
    say("ready")
    if not await asyncio.to_thread(sys.stdin.readline):
        return
    threading.Thread(target=end_with_input, daemon=True).start()
    working = asyncio.create_task(adaptor.work(url, queue, board.start))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await working


def end_with_input() -> None:
    """Tell this process to end when the bench closes its input, or is gone itself."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def say(line: str) -> None:
    """One line to the bench."""
    print(line, flush=True)


def main() -> None:
    """Be what the arguments say."""
    name, role, url, queue, path, slot = sys.argv[1:]
    adaptor = importlib.import_module(f"bench.rivals.adaptors.{name}")
    run = getattr(adaptor, "run", asyncio.run)
    if role == "prepare":
        run(adaptor.prepare(url))
        return
    board = Board(Path(path), int(slot))
    run((produce if role == "produce" else work)(adaptor, url, queue, board))


if __name__ == "__main__":
    main()
