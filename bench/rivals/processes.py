"""The bench's child processes: one producer or worker of one product each, started and ended by id."""

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.rivals.environments import python_of
from bench.rivals.servers import ROOT, Place

READY_SECONDS = 120.0
STOP_SECONDS = 20.0
BESIDE = 4
TICK = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A product did not do what was asked of it; the message has its last words."""


class Child:
    """A process of `bench.rivals.child`."""

    def __init__(self, place: Place, role: str, queue: str, board: Path, slot: int = 0) -> None:
        product = place.product
        argv = [
            str(python_of(product)),
            "-m",
            "bench.rivals.child",
            product.adaptor,
            role,
            place.url,
            queue,
        ]
        self._errors = board.with_name(f"{board.name}.{role}{slot}.err")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
        }
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*argv, str(board), str(slot)],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self._name = f"{product.name}: {role} {slot}"

    def ready(self) -> None:
        """Wait until everything is imported. Raises BenchError."""
        if self._line(READY_SECONDS) != "ready":
            raise self._failure("did not become ready")

    def tell(self, line: str) -> None:
        """Send a line."""
        self._stream(self.process.stdin).write(line + "\n")
        self._stream(self.process.stdin).flush()

    def ask(self, line: str, seconds: float) -> float:
        """Send a line and return the answer: how long it took. Raises BenchError."""
        self.tell(line)
        answer = self._line(seconds)
        if not answer:
            raise self._failure(f"did not answer {line!r}")
        return float(json.loads(answer))

    def cpu_seconds(self) -> float:
        """Time that its processor cores have worked for it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def end(self) -> None:
        """Let it end, without waiting: it does with its input, so also when the bench is killed."""
        with contextlib.suppress(OSError):
            self._stream(self.process.stdin).close()

    def gone(self) -> None:
        """Wait for its end, and enforce it."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stream(self.process.stdout).close()

    def said(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text(errors="replace").strip()

    def _line(self, seconds: float) -> str:
        out = self._stream(self.process.stdout)
        return out.readline().strip() if select.select([out], [], [], seconds)[0] else ""

    def _failure(self, what: str) -> BenchError:
        return BenchError(f"{self._name} {what}: {self.said()[-600:]}")

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        if stream is None:
            raise AssertionError("made with pipes")
        return stream


@contextmanager
def children(starting: Iterable[Child]) -> Iterator[list[Child]]:
    """Processes that are ready within the block and gone after it. A few at a time are being
    started.
    """
    started: list[Child] = []
    try:
        for child in starting:
            started.append(child)
            if len(started) > BESIDE:
                started[-BESIDE - 1].ready()
        for child in started[-BESIDE:]:
            child.ready()
        yield started
    finally:
        for child in started:
            child.end()
        for child in started:
            child.gone()
