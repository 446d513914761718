"""Small pure readers of Kubernetes objects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from task_operator.kube.kinds import COMPONENT_LABEL, INSTANCE_LABEL, Key, Manifest


def name_of(obj: Manifest) -> str:
    """The object's name."""
    return str(obj["metadata"]["name"])


def namespace_of(obj: Manifest) -> str:
    """The object's namespace."""
    return str(obj["metadata"]["namespace"])


def uid_of(obj: Manifest) -> str:
    """The object's UID; empty for a manifest that the API server has not seen."""
    return str(obj["metadata"].get("uid", ""))


def label(obj: Manifest, name: str) -> str:
    """A label's value; empty without it."""
    return str((obj["metadata"].get("labels") or {}).get(name, ""))


def annotation(obj: Manifest, name: str) -> str:
    """An annotation's value; empty without it."""
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def instance_key(obj: Manifest) -> Key:
    """The TaskService that an object's label names."""
    return namespace_of(obj), label(obj, INSTANCE_LABEL)


def component(obj: Manifest) -> str:
    """api, worker or migration."""
    return label(obj, COMPONENT_LABEL)


def is_deleting(obj: Manifest) -> bool:
    """Whether somebody has asked for the object's deletion."""
    return "deletionTimestamp" in obj["metadata"]


def controller(obj: Manifest) -> Manifest | None:
    """The owner reference of the controller, if any."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def condition(obj: Manifest, kind: str) -> Manifest | None:
    """The status condition of that type, if any."""
    for item in (obj.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            return dict(item)
    return None


def condition_is_true(obj: Manifest, kind: str) -> bool:
    """Whether the status condition of that type is True."""
    found = condition(obj, kind)
    return found is not None and found.get("status") == "True"


def container_statuses(pod: Manifest) -> list[Manifest]:
    """Statuses of the pod's containers, init containers first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def is_ready_pod(pod: Manifest) -> bool:
    """Whether the pod serves and stays."""
    return not is_deleting(pod) and condition_is_true(pod, "Ready")


def container_image(deployment: Manifest, container: str) -> str:
    """Image of the named container in a Deployment's template; empty when absent."""
    for item in deployment["spec"]["template"]["spec"].get("containers") or ():
        if item.get("name") == container:
            return str(item.get("image", ""))
    return ""


def parse_time(text: str) -> datetime:
    """A Kubernetes or service timestamp.

    >>> parse_time("2026-01-02T03:04:05Z").isoformat()
    '2026-01-02T03:04:05+00:00'
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def newest(objects: Iterable[Manifest]) -> Manifest | None:
    """The object created last."""
    return max(
        objects, key=lambda obj: str(obj["metadata"].get("creationTimestamp", "")), default=None
    )


def dig(obj: Any, *path: str) -> Any:
    """Follow keys as far as they lead; None when one is missing.

    >>> dig({"a": {"b": 1}}, "a", "b"), dig({"a": None}, "a", "b")
    (1, None)
    """
    for step in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(step)
    return obj
