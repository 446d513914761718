"""Deployments follow the wanted number of pods; workers are drained before there are fewer of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import structlog

from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster
from task_operator.kube.informer import Store
from task_operator.kube.kinds import DEPLOYMENT, POD, Key, Manifest
from task_operator.kube.objects import component, is_deleting, uid_of
from task_operator.management.service_client import Instance, ServiceUnreachableError
from task_operator.process.settings import Settings
from task_operator.render import Desired
from task_operator.scaling.decide import (
    ScaleDown,
    choose_retired,
    deletion_costs,
    may_lower,
    running_by_pod,
)
from task_operator.state import Notes

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.25


class Replicas:
    """Sets the size of Deployments that no autoscaler owns."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        settings: Settings,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._settings = settings
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())

    async def follow(self, key: Key, desired: Desired, notes: Notes) -> float | None:
        """Make sizes right; returns when to look again while retired workers finish their tasks."""
        again = None
        for name, wanted in desired.replicas.items():
            deployment = self._store.get(DEPLOYMENT, key[0], name)
            if deployment is None or is_deleting(deployment):
                continue
            current = int(deployment["spec"].get("replicas", 1))
            is_worker = component(deployment) == "worker"
            if is_worker and wanted < current and not _has_old_pods(deployment):
                again = await self._scale_down(key, deployment, wanted, notes)
                continue
            if is_worker:
                notes.scale_down = None
            if wanted != current:
                await self._cluster.apply_replicas(deployment, wanted)
                log.info("scaled", taskservice=key, deployment=name, before=current, after=wanted)
        return again

    async def _scale_down(
        self, key: Key, deployment: Manifest, wanted: int, notes: Notes
    ) -> float | None:
        """Drain the emptiest, wait a bounded time, then lower the number."""
        instances = await self._instances(key, notes)
        running = running_by_pod(instances)
        if notes.scale_down is None or notes.scale_down.replicas != wanted:
            notes.scale_down = await self._retire(key, instances, wanted, notes)
        if not may_lower(notes.scale_down, running, self._monotonic()):
            return LOOK_SECONDS
        await self._cluster.apply_replicas(deployment, wanted)
        log.info("scaled", taskservice=key, deployment=deployment["metadata"]["name"], after=wanted)
        notes.scale_down = None
        return None

    async def _retire(
        self, key: Key, instances: list[Instance], wanted: int, notes: Notes
    ) -> ScaleDown:
        pods = [pod for pod in self._store.of_instance(POD, key) if component(pod) == "worker"]
        running = running_by_pod(instances)
        retired = choose_retired(pods, running, wanted)
        for pod, cost in deletion_costs(pods, retired, running):
            try:
                await self._cluster.set_deletion_cost(pod, cost)
            except ApiError as error:  # a pod that went meanwhile has no cost to set
                if error.status not in (404, 409):
                    raise
        uids = frozenset(uid_of(pod) for pod in retired)
        notes.retire(uids)
        for instance in instances:
            if instance.pod_uid in uids and instance.state == "active":
                await self._drain(key, instance, notes)
        return ScaleDown(wanted, uids, self._monotonic() + self._settings.drain_seconds)

    async def _drain(self, key: Key, instance: Instance, notes: Notes) -> None:
        try:
            await notes.service.drain(self._store.of_instance(POD, key), instance.id)
        except (ServiceUnreachableError, ApiError, httpx.HTTPError) as error:
            # Not fatal: the worker drains at SIGTERM anyway.
            log.warning("drain_failed", taskservice=key, worker=instance.id, error=str(error))

    async def _instances(self, key: Key, notes: Notes) -> list[Instance]:
        try:
            return await notes.service.workers(self._store.of_instance(POD, key))
        except (ServiceUnreachableError, ApiError, httpx.HTTPError) as error:
            # A service that does not answer must not keep its workers from being scaled down.
            log.warning("instances_unknown", taskservice=key, error=str(error))
            return []


def _has_old_pods(deployment: Manifest) -> bool:
    """Whether a rollout is under way: its old pods go anyway, and nobody knows which the controllers take first."""
    status = deployment.get("status") or {}
    return bool(status.get("replicas", 0) != status.get("updatedReplicas", 0))
