"""The migration gate: a rollout waits until the migration Job of the new image has succeeded.

The Job's name contains a hash of the image and the settings. The Job of an image that has already
migrated is still there, so a return to the old image passes the gate immediately.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import ATTEMPT_ANNOTATION, Manifest
from task_operator.kube.objects import (
    annotation,
    condition,
    condition_is_true,
    container_statuses,
    dig,
    is_deleting,
    parse_time,
)

LONGEST_RETRY_SECONDS = 300.0
DEADLINE_RETRY_SECONDS = 5.0
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


@dataclass(frozen=True)
class Migrated:
    """The gate is open."""


@dataclass(frozen=True)
class Start:
    """Create the Job, after deleting `failed`."""

    attempt: int
    failed: Manifest | None = None


@dataclass(frozen=True)
class Running:
    """Wait; `last_error` is the message of the Job's last failed pod."""

    attempt: int
    last_error: str = ""


@dataclass(frozen=True)
class Failed:
    """Report the message and wait `retry_seconds` before the next attempt."""

    attempt: int
    message: str
    retry_seconds: float


Step = Migrated | Start | Running | Failed


def decide(
    live: Manifest | None, pods: Iterable[Manifest], now: datetime, first_retry_seconds: float
) -> Step:
    """Return the next step, given the Job of the desired image and that Job's pods."""
    if live is None:
        return Start(attempt=1)
    attempt = attempt_of(live)
    if is_deleting(live):
        return Running(attempt)
    if condition_is_true(live, "Complete"):
        return Migrated()
    failure = condition(live, "Failed")
    message = termination_message(pods)
    if failure is None or failure.get("status") != "True":
        return Running(attempt, message)
    pause = retry_seconds(attempt, str(failure.get("reason", "")), first_retry_seconds)
    left = pause - (now - parse_time(failure["lastTransitionTime"])).total_seconds()
    if left <= 0:
        return Start(attempt + 1, failed=live)
    return Failed(
        attempt,
        message or str(failure.get("message") or failure.get("reason") or "the Job failed"),
        left,
    )


def retry_seconds(attempt: int, reason: str, first: float) -> float:
    """Return the pause before the next attempt; shorter after an exceeded deadline.

    >>> [retry_seconds(n, "BackoffLimitExceeded", 10) for n in (1, 2, 3, 9)]
    [10.0, 20.0, 40.0, 300.0]
    >>> retry_seconds(4, "DeadlineExceeded", 10)
    5.0
    """
    if reason == "DeadlineExceeded":
        return min(first, DEADLINE_RETRY_SECONDS)
    return float(min(first * 2 ** min(attempt - 1, 16), LONGEST_RETRY_SECONDS))


def attempt_of(job: Manifest) -> int:
    """Return the number of the attempt that a Job makes, starting at 1."""
    text = annotation(job, ATTEMPT_ANNOTATION)
    return int(text) if text.isdecimal() else 1


def termination_message(pods: Iterable[Manifest]) -> str:
    """Return the termination message of the last failed container, or its reason and exit code."""
    failures: list[Manifest] = []
    for pod in pods:
        for status in container_statuses(pod):
            states = (dig(status, "state", "terminated"), dig(status, "lastState", "terminated"))
            failures += [state for state in states if state and state.get("exitCode")]
    if not failures:
        return ""
    last = max(failures, key=lambda failure: str(failure.get("finishedAt", "")))
    return str(
        last.get("message") or f"{last.get('reason', 'Error')}: exit code {last['exitCode']}"
    ).strip()


async def start(cluster: Cluster, job: Manifest, step: Start, owner_uid: str) -> None:
    """Create the migration Job, after deleting the failed Job with the same name."""
    if step.failed is not None:
        await cluster.delete(step.failed, owner_uid)
    metadata = job["metadata"] | {
        "annotations": dict(job["metadata"].get("annotations") or {})
        | {ATTEMPT_ANNOTATION: str(step.attempt)}
    }
    await cluster.apply(job | {"metadata": metadata})


def is_active(job: Manifest) -> bool:
    """Return True if a Job is running or may still start pods."""
    return not (condition_is_true(job, "Complete") or condition_is_true(job, "Failed"))
