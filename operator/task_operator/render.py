"""A TaskService's spec to manifests: the chart, rendered by helm, and what the operator adds to it."""

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
from task_operator.process.settings import Settings
from task_operator.spec import chart_values

CACHED_RENDERS = 1024
API_VERSIONS = tuple(sorted({kind.api_version for kind in KINDS}))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RenderError(Exception):
    """The chart cannot be rendered with this spec, or renders what the operator refuses to apply."""


@dataclass(frozen=True)
class Desired:
    """What should exist for one TaskService."""

    children: tuple[Manifest, ...]
    """In the order of KINDS, without the migration Job, Deployments without replicas."""
    migration: Manifest | None
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Size by Deployment; a Deployment that an autoscaler owns is absent."""


def operator_values(
    spec: Mapping[str, Any], trusted_issuers: list[Manifest], namespace: str
) -> dict[str, Any]:
    """The spec as chart values, with what only the operator knows: whom to trust, and where it runs itself."""
    return chart_values(spec) | {
        "trustedIssuers": trusted_issuers,
        "operator": {"namespace": namespace},
    }


def digest(value: Any) -> str:
    """A short hash of a JSON value.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """A hash of a folder's files, so that a new chart renders anew."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest(
        [
            [str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()]
            for path in files
        ]
    )


def parse(text: str) -> list[Manifest]:
    """The objects in helm's output."""
    return [document for document in yaml.load_all(text, Loader=_LOADER) if document]


def refuse(manifests: list[Manifest], namespace: str) -> None:
    """Raise RenderError for anything but the known kinds in the TaskService's own namespace."""
    for manifest in manifests:
        title = f"{manifest.get('apiVersion')} {manifest.get('kind')} {manifest.get('metadata', {}).get('name')}"
        if kind_of(manifest) not in KINDS:
            raise RenderError(
                f"the chart renders {title}, which is not a kind that the operator applies"
            )
        if manifest["metadata"].get("namespace", namespace) != namespace:
            raise RenderError(f"the chart renders {title} into another namespace than {namespace}")


def desire(manifests: list[Manifest], task_service: Manifest) -> Desired:
    """Make rendered manifests the TaskService's children; raises RenderError for what must not be applied."""
    refuse(manifests, namespace_of(task_service))
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
            # A finished Job is the proof that its image has migrated: it must not vanish by itself.
            child["spec"].pop("ttlSecondsAfterFinished", None)
            migration = child
        else:
            children.append(child)
    return Desired(tuple(children), migration, replicas)


def adopt(manifest: Manifest, task_service: Manifest) -> Manifest:
    """A manifest with owner reference, our label and the hash of what was rendered."""
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
    """A copy without nulls, which mean "not mine" to server-side apply and would never look applied."""
    if isinstance(value, dict):
        return {name: without_empty(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value


class Renderer:
    """Runs helm; equal inputs are rendered once."""

    def __init__(self, settings: Settings, kube_version: str) -> None:
        self._helm = settings.helm
        self._chart = settings.chart
        self._namespace = settings.pod_namespace
        self._kube_version = kube_version
        self._chart_digest = folder_digest(settings.chart)
        self._limit = asyncio.Semaphore(settings.renders_at_once)
        self._cache: OrderedDict[str, str] = OrderedDict()

    async def render(self, task_service: Manifest, trusted_issuers: list[Manifest]) -> Desired:
        """Everything that should exist for a TaskService; raises RenderError with helm's own words."""
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
        return desire(json.loads(text), task_service)

    async def _template(self, name: str, namespace: str, values: Mapping[str, Any]) -> str:
        command = [
            self._helm,
            "template",
            name,
            str(self._chart),
            "--namespace",
            namespace,
            "--values",
            "-",
        ]
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
    """Helm gets no credentials: it must not talk to the cluster, and its caches go where one can write."""
    folders = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME")
    return {"PATH": os.environ.get("PATH", "")} | dict.fromkeys(folders, tempfile.gettempdir())
