"""Pure functions that read fields of Kubernetes objects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from task_operator.kube.kinds import COMPONENT_LABEL, INSTANCE_LABEL, Key, Manifest


def name_of(obj: Manifest) -> str:
    """Return the object's name."""
    return str(obj["metadata"]["name"])


def namespace_of(obj: Manifest) -> str:
    """Return the object's namespace."""
    return str(obj["metadata"]["namespace"])


def uid_of(obj: Manifest) -> str:
    """Return the object's UID; empty for a manifest that has not been applied yet."""
    return str(obj["metadata"].get("uid", ""))


def label(obj: Manifest, name: str) -> str:
    """Return the value of a label; empty if the label is missing."""
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def annotation(obj: Manifest, name: str) -> str:
    """Return the value of an annotation; empty if the annotation is missing."""
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def instance_key(obj: Manifest) -> Key:
    """Return the key of the TaskService that the object's instance label names."""
    return namespace_of(obj), label(obj, INSTANCE_LABEL)


def component(obj: Manifest) -> str:
    """Return the object's component: api, worker or migration."""
    return label(obj, COMPONENT_LABEL)


def is_deleting(obj: Manifest) -> bool:
    """Return True if the object's deletion has been requested."""
    return "deletionTimestamp" in obj["metadata"]


def controller(obj: Manifest) -> Manifest | None:
    """Return the owner reference of the object's controller, if it has one."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def condition(obj: Manifest, kind: str) -> Manifest | None:
    """Return the status condition of that type, if it exists."""
    for item in (obj.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            return dict(item)
    return None


def condition_is_true(obj: Manifest, kind: str) -> bool:
    """Return True if the status condition of that type has the status True."""
    current = condition(obj, kind)
    return current is not None and current.get("status") == "True"


def container_statuses(pod: Manifest) -> list[Manifest]:
    """Return the statuses of the pod's containers, init containers first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def is_ready_pod(pod: Manifest) -> bool:
    """Return True if the pod is Ready and is not being deleted."""
    return not is_deleting(pod) and condition_is_true(pod, "Ready")


def container_image(deployment: Manifest, container: str) -> str:
    """Return the image of a container in a Deployment's template; empty if it is missing."""
    for item in deployment["spec"]["template"]["spec"].get("containers") or ():
        if item.get("name") == container:
            return str(item.get("image", ""))
    return ""


def rolled_out(deployment: Manifest | None) -> bool:
    """Return True if a Deployment has exactly the desired pods: all updated and all available."""
    if deployment is None:
        return False
    desired, status = int(deployment["spec"].get("replicas", 1)), deployment.get("status") or {}
    generation = int(deployment["metadata"].get("generation", 0))
    updated = int(status.get("updatedReplicas", 0))
    return (
        int(status.get("observedGeneration", 0)) >= generation
        and updated == desired
        and int(status.get("replicas", 0)) == updated
        and int(status.get("availableReplicas", 0)) >= desired
    )


def parse_time(text: str) -> datetime:
    """Parse a timestamp of Kubernetes or of the service; one without an offset is in UTC.

    >>> parse_time("2026-01-02T03:04:05Z").isoformat()
    '2026-01-02T03:04:05+00:00'
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def newest(objects: Iterable[Manifest]) -> Manifest | None:
    """Return the object with the latest creation time."""
    return max(
        objects, key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")), default=None
    )


def dig(obj: Any, *path: str) -> Any:
    """Return the value at a path of keys, or None if a key is missing.

    >>> dig({"a": {"b": 1}}, "a", "b"), dig({"a": None}, "a", "b")
    (1, None)
    """
    for step in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(step)
    return obj
