"""Ways to lose a worker while it runs tasks, and the delay until its tasks run again."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.support.e2e.environment import CONCURRENCY
from tests.support.e2e.installation import Attempt, Installation
from tests.support.kube import poll

TASK_SECONDS = 5

Method = Callable[[Installation, str], float]
"""Ends or stops the worker of a pod and returns the time, by the clock of all nodes."""


@dataclass(frozen=True)
class Loss:
    """A lost worker: all running tasks, the pod, its tasks, and the time of the loss."""

    ids: list[str]
    pod: str
    lost: list[str]
    at: float


def kill(demo: Installation, pod: str) -> float:
    """Send SIGKILL to the worker's process."""
    (pid, *_) = demo.environment.own_cluster.pids(demo.kube.namespace, pod, "worker")
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return at


def stop(demo: Installation, pod: str) -> float:
    """Send SIGSTOP to every process of the worker's container."""
    pids = demo.environment.own_cluster.pids(demo.kube.namespace, pod, "worker")
    at = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return at


def stop_and_delete(demo: Installation, pod: str) -> float:
    """Stop the worker, so that it cannot release its tasks, and delete the pod by force."""
    stop(demo, pod)
    at = time.time()
    demo.kube.delete("pod", pod, "--grace-period=0", "--force")
    return at


def resume(demo: Installation, pod: str) -> None:
    """Continue the worker after `stop`."""
    demo.kube.signal(pod, signal.SIGCONT, "worker", every=True)


def lose_a_worker(demo: Installation, method: Method, handler: str = "sleep") -> Loss:
    """Run as many tasks as one worker has slots for, then lose the worker that runs most."""
    ids = demo.create(CONCURRENCY, handler, {"seconds": TASK_SECONDS})
    pod, lost = demo.busiest(ids)
    return Loss(ids, pod, lost, method(demo, pod))


def wait_for_outage_report(demo: Installation, attempts: dict[str, list[Attempt]]) -> None:
    """Wait until the lost worker reports an outage as the reason, and nothing else changes."""
    expected = {
        task_id: [replace(run, reason="outage") if run.outcome == "lost" else run for run in runs]
        for task_id, runs in attempts.items()
    }
    poll("the reason outage", lambda: demo.until_ended(list(attempts)) == expected)


def waited_seconds(loss: Loss, attempts: dict[str, list[Attempt]]) -> list[float]:
    """Return the seconds from the loss to the next claim of each lost task."""
    return [attempts[task_id][1].claimed_at.timestamp() - loss.at for task_id in loss.lost]
