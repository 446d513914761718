"""One level-based pass for one TaskService: observe, compare with the desired state, converge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from task_operator import migration
from task_operator.children import Children
from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster, RefusedError
from task_operator.kube.kinds import DEPLOYMENT, JOB, POD, SERVICE_ACCOUNT, Key, Manifest, kind_of
from task_operator.kube.object_cache import ObjectCache
from task_operator.kube.objects import (
    component,
    is_deleting,
    label,
    name_of,
    namespace_of,
    uid_of,
)
from task_operator.management.trust import SigningKeys
from task_operator.metrics import MIGRATIONS
from task_operator.render import Desired, Renderer, RenderError
from task_operator.scaling.replicas import Replicas
from task_operator.state import ResourceState, StateStore
from task_operator.status.build import Observed, is_paused
from task_operator.status.diagnosis import Problem, diagnose, is_stuck
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)

MAX_STUCK_PODS = 3
"""Stuck pods whose events are read in one pass."""
STUCK_SECONDS = 3.0
REFUSED_SECONDS = 30.0
REFUSALS = (400, 403, 405, 409, 415, 422)


@dataclass(frozen=True, kw_only=True)
class Reconciler:
    """Brings TaskServices to the state that their specs describe."""

    cluster: Cluster
    cache: ObjectCache
    states: StateStore
    children: Children
    renderer: Renderer
    replicas: Replicas
    reporter: Reporter
    signing_keys: Callable[[], SigningKeys | None]
    """Returns None until the cluster's signing keys have been read."""
    subject: str
    """The operator's user name, which the services trust."""
    migration_retry_seconds: float
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def reconcile(self, key: Key) -> float | None:
        """Run one pass; return the pause before the next one, or None to wait for an event."""
        task_service = self.cache.task_service(key)
        if task_service is None or is_deleting(task_service):
            await self.states.forget(key)
            return None
        state = self.states.get(key)
        observed = Observed(task_service, paused=is_paused(task_service))
        again = None
        error: ApiError | None = None
        if not observed.paused:
            try:
                again = await self._converge(task_service, state, observed)
            except (RenderError, RefusedError) as refusal:
                reason = "RenderFailed" if isinstance(refusal, RenderError) else "Refused"
                observed.problem = Problem(reason, str(refusal))
                again = REFUSED_SECONDS
            except ApiError as refusal:
                if refusal.status not in REFUSALS:
                    raise
                observed.problem = Problem("ApplyFailed", refusal.message)
                error = refusal
        stuck = await self._observe(key, state, observed)
        await self.reporter.report(observed, state)
        if error:
            raise error  # the key's backoff determines the next attempt
        return min((pause for pause in (again, stuck) if pause is not None), default=None)

    async def _converge(
        self, task_service: Manifest, state: ResourceState, observed: Observed
    ) -> float | None:
        """Migrate, apply, scale and prune; each step runs only after the previous one."""
        key = (namespace_of(task_service), name_of(task_service))
        keys = self.signing_keys()
        if keys is None:
            observed.problem = Problem(
                "SigningKeysUnknown",
                "the cluster's ServiceAccount signing keys have not been read yet",
            )
            return STUCK_SECONDS
        issuers = keys.trusted_issuers(key, self.subject)
        desired = await self.renderer.render(task_service, issuers)
        observed.step = await self._migrate(task_service, desired, state)
        match observed.step:
            case migration.Failed(retry_seconds=pause):
                return pause
            case migration.Start() | migration.Running():
                return None
        for child in desired.children:
            await self.children.ensure(child, task_service, state)
        again = await self.replicas.follow(key, desired, state)
        await self.children.prune(task_service, desired)
        return again

    async def _migrate(
        self, task_service: Manifest, desired: Desired, state: ResourceState
    ) -> migration.Step:
        """Decide on the migration's next step, and start the Job if that is the step."""
        job = desired.migration
        if job is None:
            return migration.Migrated()
        key = (namespace_of(task_service), name_of(task_service))
        live = self.cache.get(JOB, key[0], name_of(job))
        if live is None:
            live = await self.cluster.get(JOB, key[0], name_of(job))
        if live is not None:
            self.children.check_ownership(live, task_service)
        pods = [
            pod
            for pod in self.cache.of_instance(POD, key)
            if label(pod, migration.JOB_NAME_LABEL) == name_of(job)
        ]
        step = migration.decide(live, pods, self.clock(), self.migration_retry_seconds)
        if isinstance(step, migration.Start):
            await self._prepare_migration(task_service, desired, state)
            await migration.start(self.cluster, job, step, uid_of(task_service))
            MIGRATIONS.inc()
            log.info("migration_started", taskservice=key, job=name_of(job), attempt=step.attempt)
        return step

    async def _prepare_migration(
        self, task_service: Manifest, desired: Desired, state: ResourceState
    ) -> None:
        """Delete the active Jobs of other images, and create the ServiceAccount of the pods."""
        key, uid = (namespace_of(task_service), name_of(task_service)), uid_of(task_service)
        for other in self.cache.owned(key, uid):
            is_other = kind_of(other) == JOB and name_of(other) != _migration_name(desired)
            if is_other and migration.is_active(other):
                await self.cluster.delete(other, uid)
        for child in desired.children:
            is_account = kind_of(child) == SERVICE_ACCOUNT
            if is_account and self.cache.get(SERVICE_ACCOUNT, key[0], name_of(child)) is None:
                await self.children.ensure(child, task_service, state)
        await self.children.require_owner(task_service)

    async def _observe(self, key: Key, state: ResourceState, observed: Observed) -> float | None:
        """Add Deployments, figures and the diagnosis; return a pause if pods are stuck."""
        for deployment in self.cache.of_instance(DEPLOYMENT, key):
            if component(deployment) == "api":
                observed.api = deployment
            elif component(deployment) == "worker":
                observed.worker = deployment
        observed.last_rescue, observed.queue = state.last_rescue, state.figures
        observed.schema_revision = state.schema_revision
        pods = [pod for pod in self.cache.of_instance(POD, key) if _is_relevant(pod, observed)]
        stuck = [pod for pod in pods if is_stuck(pod)]
        events = {
            name_of(pod): await self.cluster.events_about(pod) for pod in stuck[:MAX_STUCK_PODS]
        }
        observed.diagnosis = diagnose(pods, events, observed.task_service["spec"])
        return STUCK_SECONDS if stuck else None


def _migration_name(desired: Desired) -> str:
    return name_of(desired.migration) if desired.migration else ""


def _is_relevant(pod: Manifest, observed: Observed) -> bool:
    """Return False for migration pods, except while the migration is blocking the rollout."""
    if component(pod) == "migration":
        return not isinstance(observed.step, migration.Migrated | migration.Failed)
    return True
