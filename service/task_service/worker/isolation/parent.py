"""The worker's side of an isolated run: a process of its own, which can be killed and harms nobody
else.

Each run starts a fresh interpreter, see `child`. It leads a process group, in which a guard kills
all of them when the worker is gone, or has been silent for so long that its lease may be over.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import orjson
import structlog

from task_service.domain.outcomes import Outcome, Reason
from task_service.worker.context import RunContext
from task_service.worker.endings import Ending, Failed, Released, Returned, Snoozed, Stopped
from task_service.worker.handlers import Handler, LostClaimError
from task_service.worker.isolation.output import log_output

EXIT_SECONDS = 5.0
"""A process that has said how the run ended may tidy up for so long before it is killed."""
NOT_STARTED_DELAY_SECONDS = 10.0
MESSAGE_MAX_BYTES = 2 * 1024 * 1024
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Returned, Failed, Snoozed, Stopped)}
log = structlog.get_logger(__name__)


class IsolatedRun:
    """One run. `run` blocks until its process has ended; the other methods are for another thread
    and never block.
    """

    def __init__(
        self, handler: Handler, context: RunContext, folder: Path, silence_seconds: float
    ) -> None:
        self._handler, self._context, self._folder, self._silence_seconds = (
            handler,
            context,
            folder,
            silence_seconds,
        )
        self._lock = threading.Lock()  # around the three that follow
        self._process: subprocess.Popen[bytes] | None = None
        self._life: IO[bytes] | None = None
        self._told: signal.Signals | None = None
        self._last_beat = time.monotonic()
        self._longest_silence = 0.0
        self._log = log.bind(task_id=str(context.task_id), handler=handler.name)

    def terminate(self) -> None:
        """Ask the process to end."""
        self._tell(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all that it has started, at once."""
        self._tell(signal.SIGKILL)

    def beat(self) -> None:
        """Let the guard know that the worker is there."""
        now = time.monotonic()
        self._longest_silence = max(self._longest_silence, now - self._last_beat)
        self._last_beat = now
        with self._lock, contextlib.suppress(OSError):
            if self._life is not None:
                self._life.write(b".")

    def run(self) -> Ending | None:
        """Start the process, answer it, and say how the run ended once all of it has. None: the
        claim was lost.
        """
        with contextlib.ExitStack() as ends:
            ours, theirs = (ends.enter_context(end) for end in socket.socketpair())
            life, ours_of_life = os.pipe()
            ends.callback(os.close, life)
            os.set_blocking(ours_of_life, False)
            self._life = ends.enter_context(os.fdopen(ours_of_life, "wb", buffering=0))
            try:
                process = self._start(theirs.fileno(), life)
            except OSError as error:
                self._log.error("process_not_started", error=repr(error))
                return Released(Reason.OUTAGE, NOT_STARTED_DELAY_SECONDS)
            theirs.close()
            try:
                return self._follow(process, ours)
            finally:
                self._end(process)

    def _start(self, channel: int, life: int) -> "subprocess.Popen[bytes]":
        arguments = [str(channel), str(life), str(self._silence_seconds)]
        process = subprocess.Popen(
            [sys.executable, "-u", "-X", "faulthandler", "-m", "task_service.worker.isolation.child", *arguments],
            cwd=self._folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=(channel, life), start_new_session=True,
        )  # fmt: skip
        with self._lock:
            self._process, told = process, self._told
        if told is not None:
            self._tell(told)
        return process

    def _follow(self, process: "subprocess.Popen[bytes]", channel: socket.socket) -> Ending | None:
        arguments = (process.stdout, lambda: process.returncode is not None, self._log)
        threading.Thread(
            target=log_output, args=arguments, name="output of a handler", daemon=True
        ).start()
        try:
            channel.sendall(self._order())
            ending = self._answer(channel)
        except (EOFError, OSError):
            process.wait()
            return Failed(self._death(process.returncode))
        try:
            process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._log.warning(
                "process_lingers", meaning="it has answered and does not end: it is killed"
            )
        return ending

    def _order(self) -> bytes:
        c, handler = self._context, self._handler
        order = {
            "function": handler.path, "path": sys.path, "memory_mb": handler.memory_mb, "task_id": str(c.task_id),
            "worker_id": str(c.worker_id), "queue": c.queue, "attempt": c.attempt, "max_attempts": c.max_attempts,
            "fence": c.fence, "payload": c.payload,
        }  # fmt: skip
        return json.dumps(order).encode() + b"\n"

    def _answer(self, channel: socket.socket) -> Ending | None:
        """Do what the process asks for until it says how the run ended. EOFError: it will never
        say.
        """
        with channel.makefile("rb") as lines:
            while line := lines.readline(MESSAGE_MAX_BYTES):
                kind, said = orjson.loads(line)
                if kind == "extend":
                    channel.sendall(orjson.dumps(self._extend(said)) + b"\n")
                elif kind == "progress":
                    self._context.progress(*said)
                else:
                    return _ending(kind, said)
        raise EOFError

    def _extend(self, seconds: Any) -> str | None:
        """Why the time limit could not be moved; None: it was."""
        try:
            self._context.wait(self._context.extend(seconds))
        except LostClaimError:
            self.kill()
            return "the claim is lost"
        except Exception as error:  # noqa: BLE001 - the handler may know what to do about it
            return repr(error)
        return None

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill what is left of the group, and wait until it has ended."""
        self.kill()
        process.wait()
        with self._lock:
            self._process = self._life = None
        # As process 1 of a container the worker has inherited the others, and nobody else would
        # reap them.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-process.pid, 0)

    def _tell(self, number: signal.Signals) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            self._told = number
            if self._process is not None:
                (os.killpg if number is signal.SIGKILL else os.kill)(self._process.pid, number)

    def _death(self, code: int) -> str:
        if code >= 0:
            return (
                f"the handler's process exited with code {code} and did not say how the run ended"
            )
        name = signal.Signals(-code).name if -code in set(signal.Signals) else "no name"
        why = ""
        if code == -signal.SIGKILL:
            why = "; perhaps it took more memory than there was"
            if self._longest_silence >= self._silence_seconds:
                why = f"; the worker was held up for {self._longest_silence:.1f} s"
        return f"the handler's process was killed by signal {-code} ({name}){why}"


def _ending(kind: str, said: dict[str, Any]) -> Ending | None:
    if kind == "Lost":
        return None
    if "outcome" in said:
        said["outcome"] = Outcome(said["outcome"])
    ending: Ending = KINDS[kind](**said)
    return ending
