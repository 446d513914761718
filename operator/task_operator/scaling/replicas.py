"""Set the number of replicas of the Deployments; drain workers before reducing their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import DEPLOYMENT, POD, Key, Manifest
from task_operator.kube.object_cache import ObjectCache
from task_operator.kube.objects import component, is_deleting, name_of, uid_of
from task_operator.management.service_client import Instance, ServiceError
from task_operator.render import Desired
from task_operator.scaling.decide import choose_retired, deletion_costs, may_lower, running_by_pod
from task_operator.state import ResourceState, ScaleDown

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25


class Replicas:
    """Sets the replicas of the Deployments that no autoscaler controls."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        drain_seconds: float,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._drain_seconds = drain_seconds
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())

    async def follow(self, key: Key, desired: Desired, state: ResourceState) -> float | None:
        """Set the desired replicas; return a pause while retired workers finish their tasks."""
        again = None
        for name, wanted in desired.replicas.items():
            deployment = self._cache.get(DEPLOYMENT, key[0], name)
            if deployment is None or is_deleting(deployment):
                continue
            current = int(deployment["spec"].get("replicas", 1))
            is_worker = component(deployment) == "worker"
            if is_worker and wanted < current and not _is_rolling_out(deployment):
                again = await self._scale_down(key, deployment, wanted, state)
                continue
            if is_worker:
                state.scale_down = None
            if wanted != current:
                await self._cluster.apply_replicas(deployment, wanted)
                log.info("scaled", taskservice=key, deployment=name, before=current, after=wanted)
        return again

    async def _scale_down(
        self, key: Key, deployment: Manifest, wanted: int, state: ResourceState
    ) -> float | None:
        """Drain the least busy workers, wait up to the drain time, then reduce the replicas."""
        instances = await self._instances(key, state)
        running = running_by_pod(instances)
        if state.scale_down is None or state.scale_down.replicas != wanted:
            state.scale_down = await self._retire(key, instances, wanted, state)
        if not may_lower(state.scale_down, running, self._monotonic()):
            return POLL_SECONDS
        await self._cluster.apply_replicas(deployment, wanted)
        log.info("scaled", taskservice=key, deployment=name_of(deployment), after=wanted)
        state.scale_down = None
        return None

    async def _retire(
        self, key: Key, instances: list[Instance], wanted: int, state: ResourceState
    ) -> ScaleDown:
        pods = [pod for pod in self._cache.of_instance(POD, key) if component(pod) == "worker"]
        running = running_by_pod(instances)
        retired = choose_retired(pods, running, wanted)
        for pod, cost in deletion_costs(pods, retired, running):
            try:
                await self._cluster.set_deletion_cost(pod, cost)
            except ApiError as error:
                if error.status not in (404, 409):  # the pod was deleted in the meantime
                    raise
        uids = frozenset(uid_of(pod) for pod in retired)
        state.retire(uids)
        for instance in instances:
            if instance.pod_uid in uids and instance.state == "active":
                await self._drain(key, instance, state)
        return ScaleDown(wanted, uids, self._monotonic() + self._drain_seconds)

    async def _drain(self, key: Key, instance: Instance, state: ResourceState) -> None:
        try:
            await state.service.drain(self._cache.of_instance(POD, key), instance.id)
        except (ServiceError, ApiError) as error:
            # Not fatal: the worker drains itself on SIGTERM.
            log.warning("drain_failed", taskservice=key, worker=instance.id, error=str(error))

    async def _instances(self, key: Key, state: ResourceState) -> list[Instance]:
        try:
            return await state.service.workers(self._cache.of_instance(POD, key))
        except (ServiceError, ApiError) as error:
            # A service that does not respond must not prevent a scale-down of its workers.
            log.warning("instances_unknown", taskservice=key, error=str(error))
            return []


def _is_rolling_out(deployment: Manifest) -> bool:
    """Return True during a rollout.

    A rollout deletes the old pods anyway, and nothing predicts which pods the controllers delete
    first.
    """
    status = deployment.get("status") or {}
    return bool(status.get("replicas", 0) != status.get("updatedReplicas", 0))
