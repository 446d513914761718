"""What is done with one product in one place: fill it, drain it, and time single tasks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.rivals.board import Board
from bench.rivals.catalogue import QUEUE
from bench.rivals.processes import TICK, BenchError, Child, children
from bench.rivals.servers import Place

LIMIT_SECONDS = 1800.0
LOOK_SECONDS = 0.002
REST = 0.01
"""Of a core: what a waiting worker uses at most."""
WARM_UP = 50
PAUSE_SECONDS = (0.03, 0.06)
"""Before each task for an idle worker: longer than anything that it does after one."""


class Spent(NamedTuple):
    """Milliseconds of processors for a thousand tasks: the workers', and those of all that ran, the
    kernel included.
    """

    workers: float
    all: float


class Stage:
    """One product in one place. Boards are files in `folder`."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self._path = place, folder / "board"
        self._working: list[Child] = []
        self.spent = Spent(0.0, 0.0)
        """In the last drain."""

    def fill(self, count: int, how: str = "many") -> float:
        """Enter so many tasks by one producer, numbered from 0; tasks per second."""
        self.board(count).close()
        with self._producer(QUEUE) as producer:
            return count / producer.ask(f"{how} 0 {count}", LIMIT_SECONDS)

    def drain(self, count: int, workers: int = 1) -> float:
        """Run the tasks that `fill` has just entered, all that there are; tasks per second.

        From the first handler's begin until all have ended in the store. Raises BenchError when one
        has not run.
        """
        board = self.board(count)
        with self.workers(workers):
            return self._drained(board, count)

    def burst(self, count: int, workers: int) -> float:
        """The same for tasks that come in one commit, before workers that have started and found
        nothing.
        """
        board = self.board(count)
        with self.workers(workers), self._producer(QUEUE) as producer:
            self._rest()
            producer.ask(f"at_once 0 {count}", LIMIT_SECONDS)
            return self._drained(board, count)

    def _drained(self, board: Board, count: int) -> float:
        self.until(lambda: board.started() > 0)
        first, before = board.started(), self._processor_seconds()
        self.until(lambda: board.started() >= count)
        self.until(lambda: self.place.unfinished() == 0)
        ended, after = time.monotonic_ns(), self._processor_seconds()
        self.spent = Spent(
            *((b - a) * 1e6 / max(1, count - first) for a, b in zip(before, after, strict=True))
        )
        missing, began = sum(not at for at in board.starts(0, count)), min(board.starts(0, count))
        if missing:
            raise BenchError(f"{self.place.product.name}: {missing} of {count} tasks never ran")
        return count / (ended - began) * 1e9

    def _processor_seconds(self) -> tuple[float, float]:
        """Of the workers so far, and of the whole machine."""
        user, nice, system, _idle, _wait, irq, softirq = map(
            int, Path("/proc/stat").read_text().split()[1:8]
        )
        busy = user + nice + system + irq + softirq
        return self._workers_seconds(), busy / TICK

    def _workers_seconds(self) -> float:
        return sum(child.cpu_seconds() for child in self._working)

    def _rest(self) -> None:
        """Wait until the workers do next to nothing."""
        used = REST * len(self._working) + 1
        while used > REST * len(self._working):
            before = self._workers_seconds()
            time.sleep(1)
            used = self._workers_seconds() - before

    def drain_some(self, count: int, backlog: int) -> float:
        """Run so many of a backlog whose tasks have numbers below `backlog`; tasks begun per
        second.
        """
        board = self.board(backlog)
        with self.workers(1):
            self.until(lambda: board.started() > 0)
            began, first = time.monotonic_ns(), board.started()
            self.until(lambda: board.started() >= first + count)
            rate = (board.started() - first) / (time.monotonic_ns() - began) * 1e9
        board.close()
        return rate

    def idle_waits(self, samples: int, queue: str = QUEUE) -> list[float]:
        """Milliseconds from commit to begin of single tasks that find the worker idle."""
        board = self.board(WARM_UP + samples)
        with self.workers(1, queue), self._producer(queue) as producer:
            least, most = PAUSE_SECONDS
            for first, count in ((0, WARM_UP), (WARM_UP, samples)):
                producer.ask(f"spaced {first} {count} {least} {most}", LIMIT_SECONDS)
                self.until(lambda to=first + count: board.started() >= to)  # type: ignore[misc]
            waits = board.waits(WARM_UP, samples)
        board.close()
        return waits

    def load_waits(self, rate: float, seconds: float) -> tuple[list[float], float]:
        """The same while tasks come at a steady rate per second; and the rate that the producer
        reached.
        """
        count = int(rate * seconds)
        board = self.board(WARM_UP + count)
        with self.workers(1), self._producer(QUEUE) as producer:
            producer.ask(f"spaced 0 {WARM_UP} 0.01 0.01", LIMIT_SECONDS)
            taken = producer.ask(f"load {WARM_UP} {count} {rate}", LIMIT_SECONDS)
            self.until(lambda: board.started() >= WARM_UP + count)
            waits = board.waits(WARM_UP, count)
        board.close()
        return waits, count / taken

    def board(self, tasks: int) -> Board:
        """A new board for what is started next."""
        return Board.create(self._path, tasks)

    @contextmanager
    def _producer(self, queue: str) -> Iterator[Child]:
        with children([Child(self.place, "produce", queue, self._path)]) as [child]:
            yield child

    @contextmanager
    def workers(self, number: int, queue: str = QUEUE) -> Iterator[None]:
        """Start them all, and let them begin at the same moment."""
        with children(
            Child(self.place, "work", queue, self._path, slot) for slot in range(number)
        ) as started:
            for child in started:
                child.tell("go")
            self._working = started
            yield
            self._working = []

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds. Raises BenchError when a worker ends before, or it takes too
        long.
        """
        deadline = time.monotonic() + LIMIT_SECONDS
        while not holds():
            if ended := next(
                (child for child in self._working if child.process.poll() is not None), None
            ):
                raise BenchError(
                    f"{self.place.product.name}: a worker ended: {ended.said()[-600:]}"
                )
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{self.place.product.name} was not done within {LIMIT_SECONDS:.0f} s"
                )
            time.sleep(LOOK_SECONDS)
