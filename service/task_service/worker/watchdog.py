"""Seeing that no coroutine holds the event loop, and ending one that does.

A handler's coroutine that blocks (`time.sleep`, a request without await, a long computation) keeps
heartbeats, time limits and its neighbours waiting. A thread looks on, and raises an error in the
coroutine before the lease is over, so that only this attempt fails. Where that does not help, in a
library that never comes back to Python, it ends the process when the lease is long over: others
have its tasks then.

Time is counted in looks, so that a process that was stopped and continues is not taken for one that
is held up.
"""

import faulthandler
import os
import signal
import sys
import threading
from types import FrameType

import structlog

from task_service.worker.isolation.fork_safety import Contained
from task_service.worker.runner import Runner

POKE = signal.SIGURG
"""Interrupts what the main thread waits for. By default it does nothing, and nothing sends it
unasked.
"""
LOOKS_PER_LEASE = 30
WARNED_AFTER, INTERRUPTED_AFTER, ENDED_AFTER = (
    LOOKS_PER_LEASE // 5,
    LOOKS_PER_LEASE * 2 // 3,
    LOOKS_PER_LEASE * 2,
)
EXIT_CODE = 70
STEPS, REPORT = {Contained.send.__code__, Contained.throw.__code__}, Runner._ended.__code__
log = structlog.get_logger(__name__)


class BlockedLoopError(BaseException):
    """Raised in a handler's coroutine that blocks the event loop."""


class Watchdog:
    """Looks at the main thread; a loop of another one cannot be helped."""

    def __init__(self, lease_seconds: float) -> None:
        self._pause_seconds = lease_seconds / LOOKS_PER_LEASE
        self._step: FrameType | None = (
            None  # the step of a handler's coroutine that was seen at the last look
        )
        self._looks = 0  # how often it was seen
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to look; to be called on the loop's thread."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(POKE, self._on_poke)
            threading.Thread(target=self._look_on, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _look_on(self) -> None:
        main = threading.main_thread().ident or 0
        while not self._stopped.wait(self._pause_seconds):
            frame = sys._current_frames().get(main)
            step = _step_of(frame)
            self._looks = self._looks + 1 if step is self._step else 1
            self._step = step
            if step is not None and frame is not None:
                self._judge(main, f"{frame.f_code.co_filename}:{frame.f_lineno}")

    def _judge(self, main: int, where: str) -> None:
        seconds = round(self._looks * self._pause_seconds, 1)
        if self._looks == WARNED_AFTER:
            log.warning("event_loop_blocked", seconds=seconds, where=where)
        if self._looks >= INTERRUPTED_AFTER:
            signal.pthread_kill(main, POKE)
        if self._looks >= ENDED_AFTER:
            log.critical("event_loop_lost", seconds=seconds, where=where)
            faulthandler.dump_traceback()
            os._exit(EXIT_CODE)

    def _on_poke(self, _: int, frame: FrameType | None) -> None:
        """On the main thread: it may have gone on since it was looked at."""
        step, seconds = _step_of(frame), self._looks * self._pause_seconds
        if step is not None and step is self._step and self._looks >= INTERRUPTED_AFTER:
            raise BlockedLoopError(
                f"it blocked the worker's event loop for {seconds:.1f} s: a handler that waits without `await`, or "
                "computes for long, must be a plain function, or isolated"
            )


def _step_of(frame: FrameType | None) -> FrameType | None:
    """The step of a handler's coroutine within which this frame is; none while the worker reports
    how it ended.
    """
    while frame is not None and frame.f_code not in STEPS:
        frame = None if frame.f_code is REPORT else frame.f_back
    return frame
