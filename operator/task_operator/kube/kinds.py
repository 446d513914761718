"""The kinds that the operator may create, change and delete, and the names it uses.

The RBAC rules of the chart must match `KINDS`; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""

Key = tuple[str, str]
"""Namespace and name of a TaskService."""

GROUP = "taskservice.dev"
MANAGER = "task-operator"
SCALE_MANAGER = "task-operator-scale"
PAUSED_ANNOTATION = f"{GROUP}/paused"
RENDER_ANNOTATION = f"{GROUP}/render"
ATTEMPT_ANNOTATION = f"{GROUP}/attempt"
NAME_LABEL = "app.kubernetes.io/name"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
VERSION_LABEL = "app.kubernetes.io/version"
APPLICATION = "task-service"
CHILD_SELECTOR = f"{NAME_LABEL}={APPLICATION},{MANAGED_BY_LABEL}={MANAGER}"
POD_SELECTOR = f"{NAME_LABEL}={APPLICATION}"


@dataclass(frozen=True)
class Kind:
    """A namespaced kind, and the paths of its objects in the API."""

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group.

        >>> Kind("apps/v1", "Deployment", "deployments").group
        'apps'
        """
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None, name: str = "") -> str:
        """The URL path of one object, or of the collection if `name` is empty.

        >>> Kind("v1", "Pod", "pods").path("one", "two")
        '/api/v1/namespaces/one/pods/two'
        >>> Kind("apps/v1", "Deployment", "deployments").path(None)
        '/apis/apps/v1/deployments'
        """
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


KINDS = (
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("v1", "ConfigMap", "configmaps"),
    Kind("v1", "Service", "services"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("batch/v1", "Job", "jobs"),
    Kind("apps/v1", "Deployment", "deployments"),
    Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    Kind("networking.k8s.io/v1", "Ingress", "ingresses"),
)
"""In the order in which they are applied: dependencies of pods come before the pods."""

TASK_SERVICE = Kind(f"{GROUP}/v1alpha1", "TaskService", "taskservices")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
SERVICE_ACCOUNT = KINDS[0]
CONFIG_MAP = KINDS[1]
JOB = KINDS[5]
DEPLOYMENT = KINDS[6]


def known_kind(manifest: Manifest) -> Kind:
    """Return the kind of a manifest; raise LookupError if it is not a known kind."""
    kind = kind_of(manifest)
    if kind is None:
        raise LookupError(f"{manifest.get('kind')} is not a kind that the operator applies")
    return kind


def kind_of(manifest: Manifest) -> Kind | None:
    """Return the kind of a manifest, or None if the operator must not touch such an object."""
    for kind in (*KINDS, TASK_SERVICE, POD):
        if (kind.api_version, kind.kind) == (manifest.get("apiVersion"), manifest.get("kind")):
            return kind
    return None
