"""Render the manifests of a TaskService: helm renders the chart, the operator adds metadata."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from task_operator.kube.kinds import (
    DEPLOYMENT,
    JOB,
    KINDS,
    MANAGED_BY_LABEL,
    MANAGER,
    RENDER_ANNOTATION,
    TASK_SERVICE,
    Manifest,
    kind_of,
)
from task_operator.kube.objects import component, name_of, namespace_of, uid_of
from task_operator.spec import chart_values

CACHED_RENDERS = 1024
API_VERSIONS = tuple(sorted({kind.api_version for kind in KINDS}))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RenderError(Exception):
    """Helm cannot render the chart with this spec, or the result contains a forbidden object."""


@dataclass(frozen=True)
class Desired:
    """The desired objects of one TaskService."""

    children: tuple[Manifest, ...]
    """In the order of KINDS, without the migration Job. The Deployments have no replicas field."""
    migration: Manifest | None
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Number of replicas by Deployment, without the Deployments that an autoscaler controls."""


def operator_values(
    spec: Mapping[str, Any], trusted_issuers: list[Manifest], namespace: str
) -> dict[str, Any]:
    """Return the spec as chart values, with the trusted issuers and the operator's namespace."""
    return chart_values(spec) | {
        "trustedIssuers": trusted_issuers,
        "operator": {"namespace": namespace},
    }


def digest(value: Any) -> str:
    """Return a short hash of a JSON value.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """Return a hash of the files in a folder, so that a new chart invalidates cached renders."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(
        [
            [str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()]
            for path in files
        ]
    )


def parse(text: str) -> list[Manifest]:
    """Parse the objects in helm's output."""
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def check_allowed(manifests: list[Manifest], namespace: str) -> None:
    """Raise RenderError unless all objects have a known kind and the TaskService's namespace."""
    for manifest in manifests:
        name = manifest.get("metadata", {}).get("name")
        title = f"{manifest.get('apiVersion')} {manifest.get('kind')} {name}"
        if kind_of(manifest) not in KINDS:
            raise RenderError(
                f"the chart renders {title}, which is not a kind that the operator applies"
            )
        if manifest["metadata"].get("namespace", namespace) != namespace:
            raise RenderError(f"the chart renders {title} into another namespace than {namespace}")


def desired_objects(manifests: list[Manifest], task_service: Manifest) -> Desired:
    """Turn rendered manifests into children of the TaskService; raise RenderError if forbidden."""
    check_allowed(manifests, namespace_of(task_service))
    order = {kind: place for place, kind in enumerate(KINDS)}
    children, migration, replicas = [], None, {}
    for manifest in sorted(
        map(without_empty, manifests), key=lambda item: order[kind_of(item) or KINDS[-1]]
    ):
        if kind_of(manifest) == DEPLOYMENT and "replicas" in manifest["spec"]:
            replicas[name_of(manifest)] = int(manifest["spec"].pop("replicas"))
        child = adopt(manifest, task_service)
        if kind_of(manifest) == JOB and component(manifest) == "migration":
            if migration:
                raise RenderError("the chart renders two migration Jobs")
            # A finished Job proves that its image has migrated, so it must not expire.
            child["spec"].pop("ttlSecondsAfterFinished", None)
            migration = child
        else:
            children.append(child)
    return Desired(tuple(children), migration, replicas)


def adopt(manifest: Manifest, task_service: Manifest) -> Manifest:
    """Return the manifest with owner reference, managed-by label and the hash of its content."""
    metadata = dict(manifest["metadata"])
    metadata["namespace"] = namespace_of(task_service)
    metadata["labels"] = dict(metadata.get("labels") or {}) | {MANAGED_BY_LABEL: MANAGER}
    metadata["ownerReferences"] = [
        {
            "apiVersion": TASK_SERVICE.api_version,
            "kind": TASK_SERVICE.kind,
            "name": name_of(task_service),
            "uid": uid_of(task_service),
            "controller": True,
        }
    ]
    child = manifest | {"metadata": metadata}
    metadata["annotations"] = dict(metadata.get("annotations") or {}) | {
        RENDER_ANNOTATION: digest(child)
    }
    return child


def without_empty(value: Any) -> Any:
    """Return a copy without nulls: server-side apply does not record them as owned fields."""
    if isinstance(value, dict):
        return {name: without_empty(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value


class Renderer:
    """Runs helm and caches the results by input."""

    def __init__(
        self, helm: str, chart: Path, namespace: str, kube_version: str, renders_at_once: int
    ) -> None:
        """`namespace` is the operator's own, `kube_version` the version of the API server."""
        self._helm = helm
        self._chart = chart
        self._namespace = namespace
        self._kube_version = kube_version
        self._chart_digest = folder_digest(chart)
        self._limit = asyncio.Semaphore(renders_at_once)
        self._cache: OrderedDict[str, str] = OrderedDict()

    async def render(self, task_service: Manifest, trusted_issuers: list[Manifest]) -> Desired:
        """Return the desired objects of a TaskService; raise RenderError with helm's message."""
        name, namespace = name_of(task_service), namespace_of(task_service)
        values = operator_values(task_service.get("spec") or {}, trusted_issuers, self._namespace)
        key = digest([self._chart_digest, name, namespace, values])
        text = self._cache.get(key)
        if text is None:
            async with self._limit:
                text = await self._template(name, namespace, values)
            manifests = await asyncio.to_thread(parse, text)
            text = json.dumps(manifests)
            self._cache[key] = text
            if len(self._cache) > CACHED_RENDERS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return desired_objects(json.loads(text), task_service)

    async def _template(self, name: str, namespace: str, values: Mapping[str, Any]) -> str:
        command = [self._helm, "template", name, str(self._chart)]
        command += ["--namespace", namespace, "--values", "-"]
        command += ["--no-hooks", "--skip-tests", "--kube-version", self._kube_version]
        for version in API_VERSIONS:
            command += ["--api-versions", version]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_helm_environment(),
        )
        try:
            output, errors = await process.communicate(json.dumps(values).encode())
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise RenderError(errors.decode(errors="replace").strip()[:2000])
        return output.decode()


def _helm_environment() -> dict[str, str]:
    """Return helm's environment: no credentials for the cluster, and a writable cache folder."""
    folders = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME")
    return {"PATH": os.environ.get("PATH", "")} | dict.fromkeys(folders, tempfile.gettempdir())
