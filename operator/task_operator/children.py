"""Apply and prune the children of a TaskService, and check that they belong to it."""

from __future__ import annotations

import structlog

from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster, RefusedError
from task_operator.kube.drift import lost_fields, owned_fields
from task_operator.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    RENDER_ANNOTATION,
    TASK_SERVICE,
    Manifest,
    kind_of,
    known_kind,
)
from task_operator.kube.object_cache import ObjectCache
from task_operator.kube.objects import (
    annotation,
    controller,
    is_deleting,
    name_of,
    namespace_of,
    rolled_out,
    uid_of,
)
from task_operator.metrics import DRIFT_REPAIRED, PRUNED
from task_operator.render import Desired
from task_operator.state import ResourceState
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)


class Children:
    """Creates, repairs and deletes the children of TaskServices."""

    def __init__(self, cluster: Cluster, cache: ObjectCache, reporter: Reporter) -> None:
        self._cluster = cluster
        self._cache = cache
        self._reporter = reporter

    async def ensure(self, child: Manifest, task_service: Manifest, state: ResourceState) -> None:
        """Apply a child if it is missing, has drifted, or was rendered differently."""
        kind, name, namespace = known_kind(child), name_of(child), namespace_of(child)
        live = self._cache.get(kind, namespace, name)
        if live is None:
            # The child may exist without the label by which the watch selects.
            live = await self._cluster.get(kind, namespace, name)
        if live is None:
            await self.require_owner(task_service)
        elif is_deleting(live):
            return  # the event of its deletion triggers the next pass
        else:
            self.check_ownership(live, task_service)
        rendered = annotation(child, RENDER_ANNOTATION)
        lost: frozenset[str] = frozenset()
        if live:
            lost = lost_fields(child, live) - state.unverifiable.get(uid_of(live), frozenset())
        if live and not lost and annotation(live, RENDER_ANNOTATION) == rendered:
            state.applied[kind.kind, name] = rendered
            return
        applied = await self._cluster.apply(child)
        state.unverifiable[uid_of(applied)] = lost_fields(child, applied)
        if state.applied.get((kind.kind, name)) == rendered:
            change = "was missing"
            if live:
                fields = ", ".join(sorted(lost)[:5]) or f"the annotation {RENDER_ANNOTATION}"
                change = f"had lost {fields}"
            await self._report_repair(child, task_service, change)
        state.applied[kind.kind, name] = rendered

    async def _report_repair(self, child: Manifest, task_service: Manifest, change: str) -> None:
        kind, name = str(child["kind"]), name_of(child)
        key = (namespace_of(task_service), name_of(task_service))
        DRIFT_REPAIRED.labels(kind).inc()
        log.info("drift_repaired", taskservice=key, kind=kind, name=name, change=change)
        message = f"{kind} {name} {change}"
        await self._reporter.emit_event(task_service, "Normal", "DriftRepaired", message)

    async def require_owner(self, task_service: Manifest) -> None:
        """Raise ApiError if the TaskService was deleted: its children are being collected."""
        live = await self._cluster.get(
            TASK_SERVICE, namespace_of(task_service), name_of(task_service)
        )
        if live is None or uid_of(live) != uid_of(task_service) or is_deleting(live):
            raise ApiError(404, "NotFound", "the TaskService no longer exists")

    def check_ownership(self, live: Manifest, task_service: Manifest) -> None:
        """Raise RefusedError if an object belongs to another owner."""
        owner = controller(live)
        if owner and owner.get("uid") == uid_of(task_service):
            return
        title = f"{live.get('kind', 'the object')} {name_of(live)}"
        if owner:
            raise RefusedError(
                f"{title} belongs to {owner.get('kind')} {owner.get('name')}: "
                "delete it, or choose another name"
            )
        if not owned_fields(live):
            raise RefusedError(
                f"{title} exists and was not created by the operator: "
                "delete it, or choose another name"
            )

    async def prune(self, task_service: Manifest, desired: Desired) -> None:
        """Delete children that are no longer rendered.

        ConfigMaps and Jobs stay until the rollout is complete, because old pods still need them.
        """
        key, uid = (namespace_of(task_service), name_of(task_service)), uid_of(task_service)
        rendered = [*desired.children, *([desired.migration] if desired.migration else ())]
        keep = {(kind_of(child), name_of(child)) for child in rendered}
        is_settled = all(rolled_out(item) for item in self._cache.of_instance(DEPLOYMENT, key))
        for child in self._cache.owned(key, uid):
            kind = kind_of(child)
            if (kind, name_of(child)) in keep or is_deleting(child):
                continue
            if kind in (CONFIG_MAP, JOB) and not is_settled:
                continue
            if await self._cluster.delete(child, uid):
                PRUNED.labels(child["kind"]).inc()
                log.info("pruned", taskservice=key, kind=child["kind"], name=name_of(child))
