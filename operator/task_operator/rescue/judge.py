"""Which worker processes are gone, and why: pure decisions over an instance and its pod.

The instance says when its process started (the node's clock, microseconds); the pod says when its container started
(the same clock, cut to whole seconds). A container that started in a later second than the process is therefore another
one. Within the same second nothing can be told; the successor's own release or the lease does it then.
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
    """The instance is gone: why (one of the service's reasons), and what was seen."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Retirement:
    """What the operator itself is doing to the pods, which explains deletions."""

    newest_template: str = ""
    scaled_down: frozenset[str] = field(default_factory=frozenset)

    def reason(self, pod: Manifest) -> str:
        """Why somebody deleted a pod."""
        if uid_of(pod) in self.scaled_down:
            return "scale_down"
        template = label(pod, TEMPLATE_LABEL)
        return (
            "rollout"
            if template and self.newest_template and template != self.newest_template
            else "deleted"
        )


def newest_template(pods: Iterable[Manifest]) -> str:
    """Template hash of the pod created last: older ones go because of a rollout."""
    last = newest(pods)
    return label(last, TEMPLATE_LABEL) if last else ""


def judge(
    instance: Instance, pod: Manifest | None, departed: Manifest | None, retirement: Retirement
) -> Verdict | None:
    """Whether an instance is gone; None while it may still live.

    `pod` is what the API server has under the instance's pod name (None: nothing); `departed` is the last state that
    was seen of the instance's own pod.
    """
    if pod is None or uid_of(pod) != instance.pod_uid:
        return _pod_gone(instance, departed, retirement)
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


def _pod_gone(instance: Instance, departed: Manifest | None, retirement: Retirement) -> Verdict:
    detail = f"pod {instance.pod_name} ({instance.pod_uid}) is gone"
    if departed is None:
        return Verdict("deleted", detail)
    reason = _disruption(departed)
    ended = dig(_container(departed, instance.container), "state", "terminated")
    if reason is None and ended and ended.get("reason") == "OOMKilled":
        reason = "oom"
    return Verdict(reason or retirement.reason(departed), detail)


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
    """Name the end of a container; only crash and oom count against a task, so they need evidence."""
    where = f"container {instance.container} of pod {instance.pod_name}"
    if not terminated:
        return Verdict(_disruption(pod) or "unknown", f"{where} is not running any more")
    code, reason = int(terminated.get("exitCode") or 0), str(terminated.get("reason") or "")
    detail = f"{where} ended: {reason or 'no reason given'}, exit code {code}"
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
    found = condition(pod, "DisruptionTarget")
    return (
        DISRUPTIONS.get(str(found.get("reason")))
        if found and found.get("status") == "True"
        else None
    )


def _container(pod: Manifest, name: str) -> Manifest | None:
    return next((status for status in container_statuses(pod) if status.get("name") == name), None)


def tells_of_an_end(pod: Manifest) -> bool:
    """Whether a pod's state alone makes a look at the instances worth it."""
    if is_deleting(pod) or dig(pod, "status", "phase") in ("Succeeded", "Failed"):
        return True
    return any(
        status.get("restartCount") or dig(status, "state", "terminated")
        for status in container_statuses(pod)
    )
