"""Kubernetes objects for tests of pure decisions, as the API server writes them."""

from typing import Any

Object = dict[str, Any]
POD_UID = "uid-1"
SPEC: Object = {
    "database": {"secretRef": {"name": "db", "key": "url"}},
    "auth": {"secretRef": {"name": "tokens"}},
}


def pod(
    container: Object | None = None, *, uid: str = POD_UID, phase: str = "Running", **more: Any
) -> Object:
    """A worker pod; `container` is the container's status, keyword arguments go into metadata and
    status.

    metadata=..., status=... are merged into the object's.
    """
    statuses = [{"name": "worker", "restartCount": 0} | container] if container else []
    metadata = {"name": "demo-worker-1", "namespace": "team", "uid": uid, "labels": {}} | more.get(
        "metadata", {}
    )
    status = {"phase": phase, "containerStatuses": statuses} | more.get("status", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "status": status,
        "spec": more.get("spec", {}),
    }


def running(started_at: str) -> Object:
    return {"state": {"running": {"startedAt": started_at}}}


def terminated(code: int, reason: str = "Error", **more: Any) -> Object:
    return {"exitCode": code, "reason": reason} | more


def deployment(name: str = "demo-api", *, wanted: int = 2, **status: Any) -> Object:
    """A Deployment that has rolled out, unless the status says otherwise."""
    settled = {
        "observedGeneration": 1, "replicas": wanted, "updatedReplicas": wanted, "availableReplicas": wanted,
        "readyReplicas": wanted,
    }  # fmt: skip
    component = name.rpartition("-")[2]
    containers = [{"name": component, "image": "registry/service:1"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "team", "generation": 1, "labels": {
            "app.kubernetes.io/component": component, "app.kubernetes.io/version": "1"}},
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": {"b": "2", "a": "1"}},
            "template": {"spec": {"containers": containers}},
        },
        "status": settled | status,
    }  # fmt: skip


def task_service(**more: Any) -> Object:
    """A TaskService; spec=..., metadata=..., status=... are merged into the object's."""
    return {
        "apiVersion": "taskservice.dev/v1alpha1",
        "kind": "TaskService",
        "metadata": {"name": "demo", "namespace": "team", "uid": "owner", "generation": 1}
        | more.get("metadata", {}),
        "spec": SPEC | more.get("spec", {}),
        "status": more.get("status", {}),
    }
