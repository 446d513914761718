"""Ways in which a worker is lost while it runs tasks, and how long the tasks then wait."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.e2e.installation import Attempt, Installation
from tests.e2e.stage import CONCURRENCY
from tests.support.kube import poll

TASK_SECONDS = 5

Way = Callable[[Installation, str], float]
"""Does something to a worker's pod; returns when (the machine's clock, which nodes and database share)."""


@dataclass(frozen=True)
class Loss:
    """A lost worker."""

    ids: list[str]
    """All tasks that ran."""
    pod: str
    lost: list[str]
    """Those that ran in the pod."""
    at: float


def kill(demo: Installation, pod: str) -> float:
    """SIGKILL the worker's process."""
    (pid, *_) = demo.stage.cluster.pids(demo.kube.namespace, pod, "worker")
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return at


def stop(demo: Installation, pod: str) -> float:
    """SIGSTOP every process of the worker's container: it says and does nothing more."""
    pids = demo.stage.cluster.pids(demo.kube.namespace, pod, "worker")
    at = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return at


def stop_and_delete(demo: Installation, pod: str) -> float:
    """Delete a pod by force that cannot say goodbye: a worker that is told to end would hand its tasks over."""
    stop(demo, pod)
    at = time.time()
    demo.kube.delete("pod", pod, "--grace-period=0", "--force")
    return at


def resume(demo: Installation, pod: str) -> None:
    """Undo `stop`."""
    demo.kube.signal(pod, signal.SIGCONT, "worker", every=True)


def lose_a_worker(demo: Installation, way: Way, handler: str = "sleep") -> Loss:
    """Let both workers run as many tasks as one has slots for, then lose the one that runs more of them."""
    ids = demo.create(CONCURRENCY, handler, {"seconds": TASK_SECONDS})
    pod, lost = demo.busiest(ids)
    return Loss(ids, pod, lost, way(demo, pod))


def until_an_outage_is_all_that_changed(
    demo: Installation, attempts: dict[str, list[Attempt]]
) -> None:
    """Wait until the lost worker is back and has said why; nothing else that it did since counts."""
    told = {
        task_id: [replace(run, reason="outage") if run.outcome == "lost" else run for run in runs]
        for task_id, runs in attempts.items()
    }
    poll("only the reason has changed", lambda: demo.until_ended(list(attempts)) == told)


def waited_seconds(loss: Loss, attempts: dict[str, list[Attempt]]) -> list[float]:
    """From the loss of the worker to the next claim, of each lost task."""
    return [attempts[task_id][1].claimed_at.timestamp() - loss.at for task_id in loss.lost]
