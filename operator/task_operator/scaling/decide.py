"""Scaling workers down: the emptiest instances first, drained before the replicas are lowered. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from task_operator.kube.kinds import Manifest
from task_operator.kube.objects import is_deleting, is_ready_pod, name_of, uid_of
from task_operator.management.service_client import Instance

RETIRED_COST = -1_000_000
HIGHEST_COST = 2**31 - 1


@dataclass(frozen=True)
class ScaleDown:
    """A scale-down in progress: which pods go, and until when their instances may finish what they run."""

    replicas: int
    pod_uids: frozenset[str]
    deadline: float


def running_by_pod(instances: Iterable[Instance]) -> dict[str, int]:
    """Tasks that each pod runs, by pod UID."""
    running: dict[str, int] = {}
    for instance in instances:
        if instance.state != "dead":
            running[instance.pod_uid] = running.get(instance.pod_uid, 0) + instance.running
    return running


def choose_retired(
    pods: Iterable[Manifest], running: Mapping[str, int], replicas: int
) -> list[Manifest]:
    """The pods to give up so that `replicas` stay.

    Pods that are not Ready come first, as the ReplicaSet controller takes them first whatever the cost says; then the
    emptiest.
    """
    living = [
        pod
        for pod in pods
        if not is_deleting(pod) and (pod.get("status") or {}).get("phase") != "Failed"
    ]
    ranked = sorted(
        living, key=lambda pod: (is_ready_pod(pod), running.get(uid_of(pod), 0), name_of(pod))
    )
    return ranked[: max(0, len(living) - replicas)]


def deletion_costs(
    pods: Iterable[Manifest], retired: Iterable[Manifest], running: Mapping[str, int]
) -> list[tuple[Manifest, int]]:
    """The cost of every pod: retired ones far below the others, those by the tasks they run."""
    gone = {uid_of(pod) for pod in retired}
    return [
        (
            pod,
            min(running.get(uid_of(pod), 0), HIGHEST_COST)
            + (RETIRED_COST if uid_of(pod) in gone else 0),
        )
        for pod in pods
        if not is_deleting(pod)
    ]


def may_lower(step: ScaleDown, running: Mapping[str, int], now: float) -> bool:
    """Whether the replicas can be lowered: the retired pods are empty, or have had their time."""
    return now >= step.deadline or not any(running.get(uid, 0) for uid in step.pod_uids)


def stranded(pods: Iterable[Manifest], instances: Iterable[Instance]) -> list[Manifest]:
    """Pods whose instance was drained and which stay nevertheless: they would never work again."""
    draining = {instance.pod_uid for instance in instances if instance.state == "draining"}
    return [pod for pod in pods if uid_of(pod) in draining and is_ready_pod(pod)]
