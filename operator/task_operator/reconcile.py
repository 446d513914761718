"""One level-based pass for one TaskService: what is, what should be, and the difference made good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from task_operator import migration
from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster, RefusedError
from task_operator.kube.drift import lost_fields, owned_fields
from task_operator.kube.informer import Store
from task_operator.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    POD,
    RENDER_ANNOTATION,
    SERVICE_ACCOUNT,
    TASK_SERVICE,
    Key,
    Manifest,
    kind_of,
    known_kind,
)
from task_operator.kube.objects import (
    annotation,
    component,
    controller,
    is_deleting,
    label,
    name_of,
    namespace_of,
    uid_of,
)
from task_operator.management.trust import SigningKeys
from task_operator.metrics import DRIFT_REPAIRED, MIGRATIONS, PRUNED
from task_operator.process.settings import Settings
from task_operator.render import Desired, Renderer, RenderError
from task_operator.scaling.replicas import Replicas
from task_operator.state import Notebook, Notes
from task_operator.status import diagnosis
from task_operator.status.build import Situation, is_paused, rolled_out
from task_operator.status.diagnosis import Problem
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)

STUCK_PODS_LOOKED_AT = 3
STUCK_SECONDS = 3.0
REFUSED_SECONDS = 30.0
REFUSALS = (400, 403, 405, 409, 415, 422)


@dataclass
class Parts:
    """What a pass works with."""

    cluster: Cluster
    store: Store
    renderer: Renderer
    notebook: Notebook
    reporter: Reporter
    replicas: Replicas
    settings: Settings
    signing_keys: Callable[[], SigningKeys | None]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


class Reconciler:
    """Brings TaskServices to what their specs say."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cluster = parts.cluster
        self._store = parts.store

    async def reconcile(self, key: Key) -> float | None:
        """One pass; returns after how many seconds to look again without any event."""
        task_service = self._store.task_service(key)
        if task_service is None or is_deleting(task_service):
            await self._parts.notebook.forget(key)
            return None
        notes = self._parts.notebook.of(key)
        situation = Situation(task_service, paused=is_paused(task_service))
        again = None
        error: ApiError | None = None
        if not situation.paused:
            try:
                again = await self._converge(task_service, notes, situation)
            except (RenderError, RefusedError) as refusal:
                situation.problem = Problem(
                    "RenderFailed" if isinstance(refusal, RenderError) else "Refused", str(refusal)
                )
                again = REFUSED_SECONDS
            except ApiError as refusal:
                if refusal.status not in REFUSALS:
                    raise
                situation.problem = Problem("ApplyFailed", refusal.message)
                error = refusal
        stuck = await self._observe(key, notes, situation)
        await self._parts.reporter.report(situation, notes)
        if error:
            raise error  # the key's backoff decides when to try again
        return min((pause for pause in (again, stuck) if pause is not None), default=None)

    async def _converge(
        self, task_service: Manifest, notes: Notes, situation: Situation
    ) -> float | None:
        """Migrate, apply, scale, prune; each only when the one before allows it."""
        key = (namespace_of(task_service), name_of(task_service))
        keys = self._parts.signing_keys()
        if keys is None:
            situation.problem = Problem(
                "SigningKeysUnknown",
                "the cluster's ServiceAccount signing keys could not be read yet",
            )
            return STUCK_SECONDS
        issuers = keys.trusted_issuers(key, self._parts.settings.subject)
        desired = await self._parts.renderer.render(task_service, issuers)
        situation.step = await self._migrate(task_service, desired, notes)
        match situation.step:
            case migration.Failed(retry_seconds=pause):
                return pause
            case migration.Start() | migration.Running():
                return None
        for child in desired.children:
            await self._ensure(child, task_service, notes)
        again = await self._parts.replicas.follow(key, desired, notes)
        await self._prune(task_service, desired)
        return again

    async def _migrate(
        self, task_service: Manifest, desired: Desired, notes: Notes
    ) -> migration.Step:
        """Ask the gate, and start the Job that it wants."""
        job = desired.migration
        if job is None:
            return migration.Migrated()
        key = (namespace_of(task_service), name_of(task_service))
        live = self._store.get(JOB, key[0], name_of(job)) or await self._cluster.get(
            JOB, key[0], name_of(job)
        )
        if live is not None:
            self._check_ownership(live, task_service)
        pods = [
            pod
            for pod in self._store.of_instance(POD, key)
            if label(pod, migration.JOB_NAME_LABEL) == name_of(job)
        ]
        step = migration.decide(
            live, pods, self._parts.clock(), self._parts.settings.migration_retry_seconds
        )
        if isinstance(step, migration.Start):
            for other in self._store.owned(key, uid_of(task_service)):
                if (
                    kind_of(other) == JOB
                    and name_of(other) != name_of(job)
                    and migration.is_active(other)
                ):
                    await self._cluster.delete(other, uid_of(task_service))
            for child in desired.children:
                if (
                    kind_of(child) == SERVICE_ACCOUNT
                    and self._store.get(SERVICE_ACCOUNT, key[0], name_of(child)) is None
                ):
                    await self._ensure(child, task_service, notes)
            await self._require_owner(task_service)
            await migration.start(self._cluster, job, step, uid_of(task_service))
            MIGRATIONS.inc()
            log.info("migration_started", taskservice=key, job=name_of(job), attempt=step.attempt)
        return step

    async def _ensure(self, child: Manifest, task_service: Manifest, notes: Notes) -> None:
        """Apply one child when it is missing, was rendered differently, or has lost a field of ours."""
        kind, name, namespace = known_kind(child), name_of(child), namespace_of(child)
        live = self._store.get(kind, namespace, name)
        if live is None:
            live = await self._cluster.get(
                kind, namespace, name
            )  # it may lack the label that the watch selects by
        if live is None:
            await self._require_owner(task_service)
        elif is_deleting(live):
            return  # its end wakes the next pass
        else:
            self._check_ownership(live, task_service)
        wanted = annotation(child, RENDER_ANNOTATION)
        same = live is not None and annotation(live, RENDER_ANNOTATION) == wanted
        lost = (
            lost_fields(child, live) - notes.unverifiable.get(uid_of(live), frozenset())
            if live
            else frozenset({"it"})
        )
        if same and not lost:
            notes.applied[(kind.kind, name)] = wanted
            return
        applied = await self._cluster.apply(child)
        notes.unverifiable[uid_of(applied)] = lost_fields(child, applied)
        if notes.applied.get((kind.kind, name)) == wanted:
            DRIFT_REPAIRED.labels(kind.kind).inc()
            what = (
                "was missing"
                if live is None
                else "had lost " + ", ".join(sorted(lost)[:5] or ["its mark"])
            )
            log.info(
                "drift_repaired",
                taskservice=(namespace, name_of(task_service)),
                kind=kind.kind,
                name=name,
                what=what,
            )
            await self._parts.reporter.tell(
                task_service, "Normal", "DriftRepaired", f"{kind.kind} {name} {what}"
            )
        notes.applied[(kind.kind, name)] = wanted

    async def _require_owner(self, task_service: Manifest) -> None:
        """Create nothing for a TaskService that is gone while its children are being collected."""
        live = await self._cluster.get(
            TASK_SERVICE, namespace_of(task_service), name_of(task_service)
        )
        if live is None or uid_of(live) != uid_of(task_service) or is_deleting(live):
            raise ApiError(404, "NotFound", "the TaskService is gone")

    def _check_ownership(self, live: Manifest, task_service: Manifest) -> None:
        """Refuse an object of that name which is somebody else's."""
        owner = controller(live)
        if owner and owner.get("uid") == uid_of(task_service):
            return
        title = f"{live.get('kind', 'the object')} {name_of(live)}"
        if owner:
            raise RefusedError(
                f"{title} belongs to {owner.get('kind')} {owner.get('name')}: delete it, or choose another name"
            )
        if not owned_fields(live):
            raise RefusedError(
                f"{title} exists and was not made by the operator: delete it, or choose another name"
            )

    async def _prune(self, task_service: Manifest, desired: Desired) -> None:
        """Delete children that are not rendered any more; what old pods still need goes after the rollout."""
        key, uid = (namespace_of(task_service), name_of(task_service)), uid_of(task_service)
        wanted = [*desired.children, *([desired.migration] if desired.migration else ())]
        keep = {(kind_of(child), name_of(child)) for child in wanted}
        settled = all(rolled_out(item) for item in self._store.of_instance(DEPLOYMENT, key))
        for child in self._store.owned(key, uid):
            kind = kind_of(child)
            if (kind, name_of(child)) in keep or is_deleting(child):
                continue
            if kind in (CONFIG_MAP, JOB) and not settled:
                continue
            if await self._cluster.delete(child, uid):
                PRUNED.labels(child["kind"]).inc()
                log.info("pruned", taskservice=key, kind=child["kind"], name=name_of(child))

    async def _observe(self, key: Key, notes: Notes, situation: Situation) -> float | None:
        """Fill in what the pods and Deployments tell; returns when to look at stuck pods again."""
        for deployment in self._store.of_instance(DEPLOYMENT, key):
            if component(deployment) == "api":
                situation.api = deployment
            elif component(deployment) == "worker":
                situation.worker = deployment
        situation.last_rescue, situation.queue = notes.last_rescue, notes.figures
        situation.schema_revision = notes.schema_revision
        pods = [
            pod for pod in self._store.of_instance(POD, key) if self._is_current(pod, situation)
        ]
        stuck = [pod for pod in pods if diagnosis.is_stuck(pod)]
        events = {
            name_of(pod): await self._cluster.events_about(pod)
            for pod in stuck[:STUCK_PODS_LOOKED_AT]
        }
        situation.trouble = diagnosis.find(pods, events, situation.task_service["spec"])
        return STUCK_SECONDS if stuck else None

    def _is_current(self, pod: Manifest, situation: Situation) -> bool:
        """Pods of a migration count while it is not done: what they wait for is what keeps everything waiting."""
        if component(pod) == "migration":
            return not isinstance(situation.step, migration.Migrated | migration.Failed)
        return True
