"""Decide which worker processes are dead, and why: pure functions of an instance and its pod.

The instance has the start time of its process in microseconds. The pod has the start time of its
container, from the same clock, truncated to seconds. If the container started in a later second
than the process, it is a different container. Within the same second the two cannot be
distinguished; then the release by the successor or the expired lease frees the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from task_operator.kube.kinds import Manifest
from task_operator.kube.objects import (
    condition,
    container_statuses,
    dig,
    is_deleting,
    label,
    newest,
    parse_time,
    uid_of,
)
from task_operator.management.service_client import Instance

TEMPLATE_LABEL = "pod-template-hash"
NODE_REASONS = frozenset(
    {
        "NodeShutdown",
        "Terminated",
        "Shutdown",
        "NodeLost",
        "NodeAffinity",
        "UnexpectedAdmissionError",
    }
)
DISRUPTIONS = {
    "EvictionByEvictionAPI": "eviction",
    "TerminationByKubelet": "eviction",
    "PreemptionByScheduler": "eviction",
    "DeletionByTaintManager": "node",
    "DeletionByPodGC": "node",
}


@dataclass(frozen=True)
class Verdict:
    """A dead instance: the reason, one of those that the service knows, and what was observed."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Retirement:
    """Changes that the operator makes to the pods; they explain deletions."""

    newest_template: str = ""
    scaled_down: frozenset[str] = field(default_factory=frozenset)

    def reason(self, pod: Manifest) -> str:
        """Return the reason why a pod was deleted."""
        if uid_of(pod) in self.scaled_down:
            return "scale_down"
        template = label(pod, TEMPLATE_LABEL)
        return (
            "rollout"
            if template and self.newest_template and template != self.newest_template
            else "deleted"
        )


def newest_template(pods: Iterable[Manifest]) -> str:
    """Return the template hash of the newest pod; a rollout deletes pods with an older one."""
    last = newest(pods)
    return label(last, TEMPLATE_LABEL) if last else ""


def judge(
    instance: Instance, pod: Manifest | None, deleted: Manifest | None, retirement: Retirement
) -> Verdict | None:
    """Return a verdict if the instance is dead, or None while it may be alive.

    `pod` is the pod with the instance's pod name, if there is one. It may be a different pod with
    the same name. `deleted` is the last known state of the instance's own pod, if it was deleted.
    """
    if pod is None or uid_of(pod) != instance.pod_uid:
        return _pod_deleted(instance, deleted, retirement)
    phase = dig(pod, "status", "phase")
    if phase in ("Succeeded", "Failed"):
        return _pod_finished(instance, pod, retirement)
    status = _container(pod, instance.container)
    if status is None:
        return None
    state = status.get("state") or {}
    if terminated := state.get("terminated"):
        return _container_ended(instance, pod, terminated, retirement)
    if "waiting" in state:
        return _container_ended(instance, pod, dig(status, "lastState", "terminated"), retirement)
    started = dig(state, "running", "startedAt")
    if started and parse_time(started) > instance.started_at:
        return _container_ended(instance, pod, dig(status, "lastState", "terminated"), retirement)
    return None


def _pod_deleted(instance: Instance, deleted: Manifest | None, retirement: Retirement) -> Verdict:
    detail = f"pod {instance.pod_name} ({instance.pod_uid}) no longer exists"
    if deleted is None:
        return Verdict("deleted", detail)
    reason = _disruption(deleted)
    terminated = dig(_container(deleted, instance.container), "state", "terminated")
    if reason is None and terminated and terminated.get("reason") == "OOMKilled":
        reason = "oom"
    return Verdict(reason or retirement.reason(deleted), detail)


def _pod_finished(instance: Instance, pod: Manifest, retirement: Retirement) -> Verdict:
    status = pod["status"]
    reason = _disruption(pod)
    if reason:
        return Verdict(
            reason,
            f"pod {instance.pod_name} is {status['phase']}: {status.get('reason', '')} "
            f"{status.get('message', '')}".strip(),
        )
    return _container_ended(
        instance, pod, dig(_container(pod, instance.container), "state", "terminated"), retirement
    )


def _container_ended(
    instance: Instance, pod: Manifest, terminated: Manifest | None, retirement: Retirement
) -> Verdict:
    """Return the reason why a container ended.

    Only crash and oom count as failed attempts of the tasks, so these two need evidence.
    """
    where = f"container {instance.container} of pod {instance.pod_name}"
    if not terminated:
        return Verdict(_disruption(pod) or "unknown", f"{where} is not running")
    code, reason = int(terminated.get("exitCode") or 0), str(terminated.get("reason") or "")
    detail = f"{where} terminated: {reason or 'no reason given'}, exit code {code}"
    if reason == "OOMKilled":
        return Verdict("oom", detail)
    if is_deleting(pod):
        return Verdict(_disruption(pod) or retirement.reason(pod), detail)
    if reason == "ContainerStatusUnknown":
        return Verdict("node", detail)
    return Verdict("crash" if code or terminated.get("signal") else "unknown", detail)


def _disruption(pod: Manifest) -> str | None:
    status = pod.get("status") or {}
    if status.get("reason") in ("Evicted", "Preempting"):
        return "eviction"
    if status.get("reason") in NODE_REASONS:
        return "node"
    target = condition(pod, "DisruptionTarget")
    if target is None or target.get("status") != "True":
        return None
    return DISRUPTIONS.get(str(target.get("reason")))


def _container(pod: Manifest, name: str) -> Manifest | None:
    return next((status for status in container_statuses(pod) if status.get("name") == name), None)


def may_have_died(pod: Manifest) -> bool:
    """Return True if the pod's state suggests that one of its processes has ended."""
    if is_deleting(pod) or dig(pod, "status", "phase") in ("Succeeded", "Failed"):
        return True
    return any(
        status.get("restartCount") or dig(status, "state", "terminated")
        for status in container_statuses(pod)
    )
