"""The gate before a rollout: the new image's migration Job must have succeeded. Pure decision, then action.

The Job's name carries a hash of image and settings, so the Job of an image that has migrated once stays the proof:
setting the old image back finds it and opens the gate at once.
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
    """Create the Job; `failed` is the one to take away first."""

    attempt: int
    failed: Manifest | None = None


@dataclass(frozen=True)
class Running:
    """Wait; `trouble` is what the last failed pod of this Job said."""

    attempt: int
    trouble: str = ""


@dataclass(frozen=True)
class Failed:
    """Say why and wait `retry_seconds` until the next attempt."""

    attempt: int
    message: str
    retry_seconds: float


Step = Migrated | Start | Running | Failed


def decide(
    live: Manifest | None, pods: Iterable[Manifest], now: datetime, first_retry_seconds: float
) -> Step:
    """What to do about the migration, from the live Job of the wanted image and the Job's pods."""
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
    """Pause before the next attempt; a Job that ran into its deadline has waited long enough.

    >>> [retry_seconds(n, "BackoffLimitExceeded", 10) for n in (1, 2, 3, 9)]
    [10.0, 20.0, 40.0, 300.0]
    >>> retry_seconds(4, "DeadlineExceeded", 10)
    5.0
    """
    if reason == "DeadlineExceeded":
        return min(first, DEADLINE_RETRY_SECONDS)
    return float(min(first * 2 ** min(attempt - 1, 16), LONGEST_RETRY_SECONDS))


def attempt_of(job: Manifest) -> int:
    """Which attempt a Job is, from 1."""
    text = annotation(job, ATTEMPT_ANNOTATION)
    return int(text) if text.isdecimal() else 1


def termination_message(pods: Iterable[Manifest]) -> str:
    """What the Job's last failed container wrote to its termination log, or how it ended."""
    endings: list[Manifest] = []
    for pod in pods:
        for status in container_statuses(pod):
            states = (dig(status, "state", "terminated"), dig(status, "lastState", "terminated"))
            endings += [state for state in states if state and state.get("exitCode")]
    if not endings:
        return ""
    last = max(endings, key=lambda ending: str(ending.get("finishedAt", "")))
    return str(
        last.get("message") or f"{last.get('reason', 'Error')}: exit code {last['exitCode']}"
    ).strip()


async def start(cluster: Cluster, job: Manifest, step: Start, owner_uid: str) -> None:
    """Create the migration Job, after the deletion of the failed one of the same name."""
    if step.failed is not None:
        await cluster.delete(step.failed, owner_uid)
    metadata = job["metadata"] | {
        "annotations": dict(job["metadata"].get("annotations") or {})
        | {ATTEMPT_ANNOTATION: str(step.attempt)}
    }
    await cluster.apply(job | {"metadata": metadata})


def is_active(job: Manifest) -> bool:
    """Whether a Job still runs or may start pods."""
    return not (condition_is_true(job, "Complete") or condition_is_true(job, "Failed"))
