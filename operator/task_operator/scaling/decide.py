"""Decide how to scale workers down: pure functions.

The pods with the fewest running tasks go first. Their workers are drained before the number of
replicas is reduced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from task_operator.kube.kinds import Manifest
from task_operator.kube.objects import is_deleting, is_ready_pod, name_of, uid_of
from task_operator.management.service_client import Instance
from task_operator.state import ScaleDown

RETIRED_COST = -1_000_000
HIGHEST_COST = 2**31 - 1


def running_by_pod(instances: Iterable[Instance]) -> dict[str, int]:
    """Return the number of running tasks of each pod, by pod UID."""
    running: dict[str, int] = {}
    for instance in instances:
        if instance.state != "dead":
            running[instance.pod_uid] = running.get(instance.pod_uid, 0) + instance.running
    return running


def choose_retired(
    pods: Iterable[Manifest], running: Mapping[str, int], replicas: int
) -> list[Manifest]:
    """Return the pods to remove, so that `replicas` pods remain.

    Pods that are not Ready come first, because the ReplicaSet controller deletes them first,
    whatever their deletion cost is. The pods with the fewest running tasks follow.
    """
    candidates = [
        pod
        for pod in pods
        if not is_deleting(pod) and (pod.get("status") or {}).get("phase") != "Failed"
    ]
    ranked = sorted(
        candidates, key=lambda pod: (is_ready_pod(pod), running.get(uid_of(pod), 0), name_of(pod))
    )
    return ranked[: max(0, len(candidates) - replicas)]


def deletion_costs(
    pods: Iterable[Manifest], retired: Iterable[Manifest], running: Mapping[str, int]
) -> list[tuple[Manifest, int]]:
    """Return the deletion cost of every pod: its running tasks, and far less for retired pods."""
    retired_uids = {uid_of(pod) for pod in retired}
    return [
        (
            pod,
            min(running.get(uid_of(pod), 0), HIGHEST_COST)
            + (RETIRED_COST if uid_of(pod) in retired_uids else 0),
        )
        for pod in pods
        if not is_deleting(pod)
    ]


def may_lower(step: ScaleDown, running: Mapping[str, int], now: float) -> bool:
    """Return True if no retired pod runs a task any more, or if the deadline has passed."""
    return now >= step.deadline or not any(running.get(uid, 0) for uid in step.pod_uids)


def stranded(pods: Iterable[Manifest], instances: Iterable[Instance]) -> list[Manifest]:
    """Return the Ready pods whose instance is drained: they would never claim a task again."""
    draining = {instance.pod_uid for instance in instances if instance.state == "draining"}
    return [pod for pod in pods if uid_of(pod) in draining and is_ready_pod(pod)]
