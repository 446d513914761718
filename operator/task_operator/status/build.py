"""A TaskService's status: pure, from what one pass found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from task_operator.kube.kinds import PAUSED_ANNOTATION, VERSION_LABEL, Manifest
from task_operator.kube.objects import annotation, condition, container_image, dig, label
from task_operator.migration import Failed, Migrated, Running, Start, Step
from task_operator.status.diagnosis import Problem


@dataclass
class Situation:
    """What one pass found."""

    task_service: Manifest
    paused: bool
    step: Step | None = None
    """None when the pass did not come to the migration."""
    problem: Problem | None = None
    """What the operator itself could not do."""
    trouble: Problem | None = None
    """What keeps pods from running."""
    api: Manifest | None = None
    worker: Manifest | None = None
    last_rescue: Manifest | None = None
    queue: Manifest | None = None
    schema_revision: int | None = None

    @property
    def failure(self) -> Problem | None:
        """Why the migration failed; while it is tried again, what was said of the attempt before.

        A Job tries several pods before it gives up: the first that failed is told, not only the last.
        """
        said = self.step.message if isinstance(self.step, Failed) else ""
        said = self.step.trouble if isinstance(self.step, Running) else said
        if isinstance(self.step, Failed | Running) and said:
            return Problem(
                "MigrationFailed", f"the migration failed (attempt {self.step.attempt}): {said}"
            )
        if isinstance(self.step, Start | Running) and self.step.attempt > 1:
            known = condition(self.task_service, "Migrated")
            if known and known["reason"] == "MigrationFailed":
                return Problem(known["reason"], known["message"])
        return None


@dataclass(frozen=True)
class Finding:
    """A condition without its times."""

    type: str
    status: str
    reason: str
    message: str


def is_paused(task_service: Manifest) -> bool:
    """Whether spec or annotation pauses the TaskService."""
    return (
        bool(dig(task_service, "spec", "paused"))
        or annotation(task_service, PAUSED_ANNOTATION).lower() == "true"
    )


def rolled_out(deployment: Manifest | None) -> bool:
    """Whether every pod of a Deployment is new, available and wanted."""
    if deployment is None:
        return False
    wanted, status = deployment["spec"].get("replicas", 1), deployment.get("status") or {}
    updated = int(status.get("updatedReplicas", 0))
    seen = int(status.get("observedGeneration", 0)) >= int(
        deployment["metadata"].get("generation", 0)
    )
    all_new = updated == int(wanted) and int(status.get("replicas", 0)) == updated
    return seen and all_new and int(status.get("availableReplicas", 0)) >= int(wanted)


def build(situation: Situation, now: datetime) -> Manifest:
    """The whole status; a condition keeps its time while its status stays."""
    task_service = situation.task_service
    status: Manifest = {
        "observedGeneration": task_service["metadata"].get("generation", 0),
        "conditions": [_dated(finding, task_service, now) for finding in findings(situation)],
        "api": _replicas(situation.api),
        "worker": _replicas(situation.worker) | {"selector": _selector(situation.worker)},
    }
    if situation.api is not None and rolled_out(
        situation.api
    ):  # until then it is the old one that serves
        status["image"] = container_image(situation.api, "api")
        status["version"] = label(situation.api, VERSION_LABEL)
    for name, value in (
        ("schemaRevision", situation.schema_revision),
        ("queue", situation.queue),
        ("lastRescue", situation.last_rescue),
    ):
        if value is not None:
            status[name] = value
    return status


def changes(observed: Manifest, wanted: Manifest) -> Manifest | None:
    """The merge patch from one status to the other, None without a difference.

    Fields that this pass knows nothing of (figures after a restart of the operator) stay.

    >>> changes({"a": 1, "b": 2}, {"a": 1, "b": 3})
    {'b': 3}
    """
    patch = {name: value for name, value in wanted.items() if observed.get(name) != value}
    return patch or None


def findings(situation: Situation) -> Iterator[Finding]:
    """The conditions, Ready first."""
    yield _ready(situation)
    yield _progressing(situation)
    yield _degraded(situation)
    yield _migrated(situation)
    if situation.paused:
        yield Finding(
            "Paused",
            "True",
            "Paused",
            "spec.paused or the annotation stops migration, rollout and repair",
        )
    else:
        yield Finding("Paused", "False", "NotPaused", "the operator is at work")
    autoscaling = dig(situation.task_service, "spec", "worker", "autoscaling") or {}
    if autoscaling.get("enabled"):
        yield Finding(
            "ScaleIgnored", "True", "Autoscaled",
            f"spec.worker.replicas ({dig(situation.task_service, 'spec', 'worker', 'replicas')}) is ignored: the "
            f"autoscaler sets {autoscaling.get('minReplicas', 1)} to {autoscaling.get('maxReplicas')} workers",
        )  # fmt: skip


def _ready(situation: Situation) -> Finding:
    blocker = situation.problem or situation.trouble
    if blocker is None and situation.failure:
        return Finding(
            "Ready",
            "False",
            situation.failure.reason,
            _still_serving(situation) + situation.failure.message,
        )
    if blocker:
        return Finding("Ready", "False", blocker.reason, blocker.message)
    if isinstance(situation.step, Start | Running):
        return Finding(
            "Ready", "False", "Migrating", _still_serving(situation) + "the migration runs"
        )
    waiting = list(_unfinished(situation))
    if waiting:
        return Finding("Ready", "False", "RollingOut", "; ".join(waiting))
    return Finding("Ready", "True", "Ready", "API and workers are up to date and ready")


def _progressing(situation: Situation) -> Finding:
    if situation.paused:
        return Finding("Progressing", "False", "Paused", "nothing is changed while paused")
    if situation.problem:
        return Finding("Progressing", "False", situation.problem.reason, situation.problem.message)
    if situation.failure:
        return Finding(
            "Progressing",
            "False",
            "MigrationFailed",
            "the migration is tried again with a growing pause",
        )
    if isinstance(situation.step, Start | Running):
        return Finding(
            "Progressing", "True", "Migrating", "the migration of the new image or settings runs"
        )
    waiting = list(_unfinished(situation))
    if waiting:
        return Finding("Progressing", "True", "RollingOut", "; ".join(waiting))
    return Finding("Progressing", "False", "Settled", "what is wanted is what runs")


def _degraded(situation: Situation) -> Finding:
    problem = situation.problem or situation.trouble or situation.failure
    for deployment in (situation.api, situation.worker):
        stalled = condition(deployment, "Progressing") if deployment else None
        refused = condition(deployment, "ReplicaFailure") if deployment else None
        if problem is None and refused and refused.get("status") == "True":
            problem = Problem("PodsRefused", str(refused.get("message", "")))
        if problem is None and stalled and stalled.get("reason") == "ProgressDeadlineExceeded":
            problem = Problem("RolloutStalled", str(stalled.get("message", "")))
    if problem:
        return Finding("Degraded", "True", problem.reason, problem.message)
    return Finding("Degraded", "False", "AsExpected", "nothing needs a person")


def _migrated(situation: Situation) -> Finding:
    if situation.failure:
        return Finding("Migrated", "False", situation.failure.reason, situation.failure.message)
    match situation.step:
        case Migrated():
            return Finding(
                "Migrated",
                "True",
                "MigrationSucceeded",
                "the database has the schema of this image",
            )
        case Start() | Running() | Failed():
            return Finding("Migrated", "False", "MigrationRunning", "the migration Job runs")
        case None:
            known = condition(situation.task_service, "Migrated")
            if known:
                return Finding("Migrated", known["status"], known["reason"], known["message"])
            return Finding(
                "Migrated", "Unknown", "NotYetKnown", "the migration has not been looked at"
            )


def _still_serving(situation: Situation) -> str:
    return f"{container_image(situation.api, 'api')} goes on serving; " if situation.api else ""


def _unfinished(situation: Situation) -> Iterator[str]:
    for title, deployment in (("API", situation.api), ("workers", situation.worker)):
        if deployment is None:
            yield f"{title}: not there yet"
        elif not rolled_out(deployment):
            status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
            updated, available = (
                status.get("updatedReplicas", 0),
                status.get("availableReplicas", 0),
            )
            yield f"{title}: {updated} of {wanted} updated, {available} available"


def _dated(finding: Finding, task_service: Manifest, now: datetime) -> Manifest:
    known = condition(task_service, finding.type)
    since = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if known and known.get("status") == finding.status:
        since = known["lastTransitionTime"]
    return {
        "type": finding.type,
        "status": finding.status,
        "reason": finding.reason,
        "message": finding.message[:2000],
        "lastTransitionTime": since,
        "observedGeneration": task_service["metadata"].get("generation", 0),
    }


def _replicas(deployment: Manifest | None) -> dict[str, Any]:
    status = (deployment or {}).get("status") or {}
    return {"replicas": status.get("replicas", 0), "ready": status.get("readyReplicas", 0)}


def _selector(deployment: Manifest | None) -> str:
    labels = dig(deployment, "spec", "selector", "matchLabels") or {}
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
