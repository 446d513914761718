"""Build the status of a TaskService from the result of one pass: pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from task_operator.kube.kinds import PAUSED_ANNOTATION, VERSION_LABEL, Manifest
from task_operator.kube.objects import (
    annotation,
    condition,
    container_image,
    dig,
    label,
    rolled_out,
)
from task_operator.migration import Failed, Migrated, Running, Start, Step
from task_operator.status.diagnosis import Problem


@dataclass
class Observed:
    """The result of one pass: what was observed, and what the operator could not do."""

    task_service: Manifest
    paused: bool
    step: Step | None = None
    """None if the pass did not reach the migration."""
    problem: Problem | None = None
    """What the operator itself could not do."""
    diagnosis: Problem | None = None
    """What prevents pods from running."""
    api: Manifest | None = None
    worker: Manifest | None = None
    last_rescue: Manifest | None = None
    queue: Manifest | None = None
    schema_revision: int | None = None

    @property
    def migration_failure(self) -> Problem | None:
        """Why the migration failed; during a retry, the error of the previous attempt.

        A Job starts several pods before it gives up. The first failed pod is reported, without
        waiting for the last.
        """
        error = ""
        if isinstance(self.step, Failed):
            error = self.step.message
        elif isinstance(self.step, Running):
            error = self.step.last_error
        if isinstance(self.step, Failed | Running) and error:
            return Problem(
                "MigrationFailed", f"the migration failed (attempt {self.step.attempt}): {error}"
            )
        if isinstance(self.step, Start | Running) and self.step.attempt > 1:
            known = condition(self.task_service, "Migrated")
            if known and known["reason"] == "MigrationFailed":
                return Problem(known["reason"], known["message"])
        return None


@dataclass(frozen=True)
class Condition:
    """A condition without its times."""

    type: str
    status: str
    reason: str
    message: str


def is_paused(task_service: Manifest) -> bool:
    """Return True if the spec or the annotation pauses the TaskService."""
    return (
        bool(dig(task_service, "spec", "paused"))
        or annotation(task_service, PAUSED_ANNOTATION).lower() == "true"
    )


def build(observed: Observed, now: datetime) -> Manifest:
    """Return the whole status; a condition keeps its time as long as its status does not change."""
    task_service = observed.task_service
    status: Manifest = {
        "observedGeneration": task_service["metadata"].get("generation", 0),
        "conditions": [_dated(item, task_service, now) for item in conditions(observed)],
        "api": _replicas(observed.api),
        "worker": _replicas(observed.worker) | {"selector": _selector(observed.worker)},
    }
    if observed.api is not None and rolled_out(observed.api):
        # Until the rollout is complete, the old image serves.
        status["image"] = container_image(observed.api, "api")
        status["version"] = label(observed.api, VERSION_LABEL)
    for name, value in (
        ("schemaRevision", observed.schema_revision),
        ("queue", observed.queue),
        ("lastRescue", observed.last_rescue),
    ):
        if value is not None:
            status[name] = value
    return status


def changes(current: Manifest, desired: Manifest) -> Manifest | None:
    """Return the merge patch from one status to another, or None if nothing changes.

    Fields that this pass does not know stay, such as the figures after a restart of the operator.

    >>> changes({"a": 1, "b": 2}, {"a": 1, "b": 3})
    {'b': 3}
    """
    patch = {name: value for name, value in desired.items() if current.get(name) != value}
    return patch or None


def conditions(observed: Observed) -> Iterator[Condition]:
    """Yield the conditions, Ready first."""
    yield _ready(observed)
    yield _progressing(observed)
    yield _degraded(observed)
    yield _migrated(observed)
    if observed.paused:
        message = "migration, rollout and repair are paused by spec.paused or by the annotation"
        yield Condition("Paused", "True", "Paused", message)
    else:
        yield Condition("Paused", "False", "NotPaused", "the operator reconciles this TaskService")
    autoscaling = dig(observed.task_service, "spec", "worker", "autoscaling") or {}
    if autoscaling.get("enabled"):
        replicas = dig(observed.task_service, "spec", "worker", "replicas")
        bounds = f"{autoscaling.get('minReplicas', 1)} to {autoscaling.get('maxReplicas')}"
        message = (
            f"spec.worker.replicas ({replicas}) is ignored: the autoscaler sets {bounds} workers"
        )
        yield Condition("ScaleIgnored", "True", "Autoscaled", message)


def _ready(observed: Observed) -> Condition:
    blocker = observed.problem or observed.diagnosis
    if blocker:
        return Condition("Ready", "False", blocker.reason, blocker.message)
    failure = observed.migration_failure
    if failure:
        message = _still_serving(observed) + failure.message
        return Condition("Ready", "False", failure.reason, message)
    if isinstance(observed.step, Start | Running):
        message = _still_serving(observed) + "the migration is running"
        return Condition("Ready", "False", "Migrating", message)
    waiting = list(_unfinished(observed))
    if waiting:
        return Condition("Ready", "False", "RollingOut", "; ".join(waiting))
    return Condition("Ready", "True", "Ready", "API and workers are up to date and ready")


def _progressing(observed: Observed) -> Condition:
    if observed.paused:
        return Condition("Progressing", "False", "Paused", "the operator changes nothing")
    if observed.problem:
        return Condition("Progressing", "False", observed.problem.reason, observed.problem.message)
    if observed.migration_failure:
        message = "the migration is retried with increasing pauses"
        return Condition("Progressing", "False", "MigrationFailed", message)
    if isinstance(observed.step, Start | Running):
        message = "the migration for the new image or settings is running"
        return Condition("Progressing", "True", "Migrating", message)
    waiting = list(_unfinished(observed))
    if waiting:
        return Condition("Progressing", "True", "RollingOut", "; ".join(waiting))
    return Condition("Progressing", "False", "Settled", "the current state is the desired state")


def _degraded(observed: Observed) -> Condition:
    problem = observed.problem or observed.diagnosis or observed.migration_failure
    for deployment in (observed.api, observed.worker):
        stalled = condition(deployment, "Progressing") if deployment else None
        refused = condition(deployment, "ReplicaFailure") if deployment else None
        if problem is None and refused and refused.get("status") == "True":
            problem = Problem("PodsRefused", str(refused.get("message", "")))
        if problem is None and stalled and stalled.get("reason") == "ProgressDeadlineExceeded":
            problem = Problem("RolloutStalled", str(stalled.get("message", "")))
    if problem:
        return Condition("Degraded", "True", problem.reason, problem.message)
    return Condition("Degraded", "False", "AsExpected", "no intervention is needed")


def _migrated(observed: Observed) -> Condition:
    failure = observed.migration_failure
    if failure:
        return Condition("Migrated", "False", failure.reason, failure.message)
    match observed.step:
        case Migrated():
            message = "the database schema matches this image"
            return Condition("Migrated", "True", "MigrationSucceeded", message)
        case Start() | Running() | Failed():
            message = "the migration Job is running"
            return Condition("Migrated", "False", "MigrationRunning", message)
        case None:
            known = condition(observed.task_service, "Migrated")
            if known:
                return Condition("Migrated", known["status"], known["reason"], known["message"])
            message = "the migration has not been checked yet"
            return Condition("Migrated", "Unknown", "NotYetKnown", message)


def _still_serving(observed: Observed) -> str:
    return f"{container_image(observed.api, 'api')} is still serving; " if observed.api else ""


def _unfinished(observed: Observed) -> Iterator[str]:
    for title, deployment in (("API", observed.api), ("workers", observed.worker)):
        if deployment is None:
            yield f"{title}: not created yet"
        elif not rolled_out(deployment):
            status, desired = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
            updated = status.get("updatedReplicas", 0)
            available = status.get("availableReplicas", 0)
            yield f"{title}: {updated} of {desired} updated, {available} available"


def _dated(item: Condition, task_service: Manifest, now: datetime) -> Manifest:
    known = condition(task_service, item.type)
    since = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if known and known.get("status") == item.status:
        since = known["lastTransitionTime"]
    return {
        "type": item.type,
        "status": item.status,
        "reason": item.reason,
        "message": item.message[:2000],
        "lastTransitionTime": since,
        "observedGeneration": task_service["metadata"].get("generation", 0),
    }


def _replicas(deployment: Manifest | None) -> dict[str, Any]:
    status = (deployment or {}).get("status") or {}
    return {"replicas": status.get("replicas", 0), "ready": status.get("readyReplicas", 0)}


def _selector(deployment: Manifest | None) -> str:
    labels = dig(deployment, "spec", "selector", "matchLabels") or {}
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
