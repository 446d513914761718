"""JSON schemas of Kubernetes' own kinds for kubeconform, made from what a running API server says
of itself.

kubeconform would download them; kept here they work without a network, in the version that the
tests run. A test on a real API server fails when they are stale; `--update-golden` renews them.
"""

import json
from pathlib import Path
from typing import Any

from task_operator.generate.schema import structural
from task_operator.spec import TaskServiceSpec, TaskServiceStatus

Schema = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[1] / "charts/schemas"
DEFINITIONS = FOLDER / "definitions.json"
KINDS = {  # every kind that the charts and the folder k8s have, by its OpenAPI definition
    "io.k8s.api.apps.v1": ("Deployment", "StatefulSet"),
    "io.k8s.api.autoscaling.v2": ("HorizontalPodAutoscaler",),
    "io.k8s.api.batch.v1": ("Job",),
    "io.k8s.api.core.v1": ("ConfigMap", "Namespace", "Pod", "Secret", "Service", "ServiceAccount"),
    "io.k8s.api.networking.v1": ("Ingress", "NetworkPolicy"),
    "io.k8s.api.policy.v1": ("PodDisruptionBudget",),
    "io.k8s.api.rbac.v1": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1": ("CustomResourceDefinition",),
}
SCALARS = {  # what the API server reads more generously than its OpenAPI document says
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
}


def kubernetes_schemas(openapi: Schema) -> dict[str, str]:
    """From `/openapi/v2`: file names and their text, one file a kind and one with the definitions
    that they share.
    """
    roots = [f"{package}.{kind}" for package, kinds in KINDS.items() for kind in kinds]
    needed = _reachable(roots, openapi["definitions"])
    definitions = {
        name: SCALARS.get(name) or _strict(openapi["definitions"][name]) for name in sorted(needed)
    }
    files = {
        DEFINITIONS.name: json.dumps({"definitions": definitions}, separators=(",", ":")) + "\n"
    }
    for root in roots:
        files[f"{root.rpartition('.')[2].lower()}.json"] = (
            json.dumps({"$ref": f"definitions.json#/definitions/{root}"}) + "\n"
        )
    return files


def taskservice_schema() -> Schema:
    """The schema of a TaskService, strict, from the models."""
    parts = {"spec": structural(TaskServiceSpec), "status": structural(TaskServiceStatus)}
    text = {
        "apiVersion": {"const": "taskservice.dev/v1alpha1"},
        "kind": {"const": "TaskService"},
        "metadata": {"type": "object"},
    }
    return _strict({"type": "object", "required": ["spec"], "properties": text | parts})


def _reachable(names: list[str], definitions: dict[str, Schema]) -> set[str]:
    """The names and all that they refer to."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(definitions[name])
    return found


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"].rpartition("/")[2]] if isinstance(node.get("$ref"), str) else []
    return own + [name for value in node.values() for name in _references(value)]


def _strict(node: Schema) -> Schema:
    """The schema without words, refusing fields that it does not name."""
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    dropped = ("description", "format", "default")
    result = {
        k: v for k, v in node.items() if k not in dropped and not k.startswith("x-kubernetes-")
    }
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _strict(result[key])
    if "properties" in result:
        result["properties"] = {
            name: _strict(child) for name, child in result["properties"].items()
        }
        result.setdefault("additionalProperties", False)
    return result
