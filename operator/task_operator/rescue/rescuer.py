"""Release the tasks of dead worker processes.

A check is level-based: it compares all registered instances with their pods. It runs after every
pod event that may concern an instance, and periodically.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import DEPLOYMENT, POD, Key, Manifest
from task_operator.kube.object_cache import ObjectCache
from task_operator.kube.objects import component, is_deleting, name_of, rolled_out, uid_of
from task_operator.management.service_client import Instance, ServiceError, addresses
from task_operator.metrics import RESCUE_SECONDS, RESCUED_TASKS, RESCUES
from task_operator.rescue.judge import Retirement, Verdict, judge, newest_template
from task_operator.scaling.decide import stranded
from task_operator.state import ResourceState, StateStore
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)


class Rescuer:
    """Checks the registered instances of a TaskService and releases those that are dead."""

    def __init__(
        self,
        cluster: Cluster,
        cache: ObjectCache,
        states: StateStore,
        reporter: Reporter,
        figures_seconds: float,
        wake: Callable[[Key], None],
    ) -> None:
        """`wake` requests a reconcile pass, which writes the results into the status."""
        self._cluster = cluster
        self._cache = cache
        self._states = states
        self._reporter = reporter
        self._figures_seconds = figures_seconds
        self._wake = wake

    async def check(self, key: Key) -> None:
        """Check all instances once; an error propagates, so that the key's backoff retries it."""
        if self._cache.task_service(key) is None:
            return
        state = self._states.get(key)
        pods = self._cache.of_instance(POD, key)
        if not addresses(pods):
            return  # no pod can be queried; the next pod that becomes Ready triggers a check
        instances = await state.service.workers(pods)
        workers = [pod for pod in pods if component(pod) == "worker"]
        retirement = Retirement(newest_template(workers), frozenset(state.retired))
        await asyncio.gather(
            *(self._check_instance(key, instance, retirement, state) for instance in instances)
        )
        state.pod_event_at = None
        await self._replace_stranded(key, workers, instances, state)
        await self._read_figures(key, retirement.newest_template, state)

    async def _check_instance(
        self, key: Key, instance: Instance, retirement: Retirement, state: ResourceState
    ) -> None:
        """Release one instance if it is dead according to the cache and to the API server."""
        if instance.state == "dead" and instance.id in state.explained:
            return
        deleted = self._cache.deleted_pod(instance.pod_uid)
        cached = self._cache.get(POD, key[0], instance.pod_name)
        if judge(instance, cached, deleted, retirement) is None:
            return
        pod = await self._cluster.get(POD, key[0], instance.pod_name)
        verdict = judge(instance, pod, deleted, retirement)
        if verdict is None:
            return
        if instance.state == "dead" and verdict.reason == "unknown":
            state.explain(instance.id)  # the service already knows as much
            return
        pods = self._cache.of_instance(POD, key)
        answer = await state.service.release(pods, instance.id, verdict.reason, verdict.detail)
        state.explain(instance.id)
        if answer is not None:
            await self._report(key, instance, verdict, answer, state)

    async def _report(
        self, key: Key, instance: Instance, verdict: Verdict, answer: Manifest, state: ResourceState
    ) -> None:
        """Report a release in metrics, log, status and an event.

        The successor or an expired lease may have released the tasks earlier. Then this release
        only adds the reason, and is reported only if there were tasks without a reason.
        """
        released = int(answer.get("released") or 0) + int(answer.get("failed") or 0)
        tasks = released + int(answer.get("explained") or 0)
        already_dead = bool(answer.get("already_dead"))
        if already_dead and not tasks:
            return
        if not already_dead:
            RESCUES.labels(verdict.reason).inc()
            if state.pod_event_at is not None:
                RESCUE_SECONDS.observe(asyncio.get_running_loop().time() - state.pod_event_at)
        RESCUED_TASKS.labels(verdict.reason).inc(released)
        state.last_rescue = {
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "workerId": instance.id,
            "pod": instance.pod_name,
            "reason": verdict.reason,
            "tasks": tasks,
        }
        fields = {"pod": instance.pod_name, "reason": verdict.reason, "tasks": tasks}
        log.info("rescued", taskservice=key, worker=instance.id, detail=verdict.detail, **fields)
        self._wake(key)
        task_service = self._cache.task_service(key)
        if task_service is not None:
            kind = "Warning" if tasks else "Normal"
            text = f"{tasks} tasks of {instance.pod_name} released ({verdict.reason})"
            message = f"{text}: {verdict.detail}"
            await self._reporter.emit_event(task_service, kind, "TasksReleased", message)

    async def _replace_stranded(
        self, key: Key, workers: list[Manifest], instances: list[Instance], state: ResourceState
    ) -> None:
        """Replace pods that were drained for a scale-down, but not removed by it.

        The scale-down removed another pod instead, or was reverted. A pod is replaced only if two
        consecutive checks find it stranded and no rollout or scale-down is in progress, because a
        drained pod may also be about to end.
        """
        deployment = next(
            (d for d in self._cache.of_instance(DEPLOYMENT, key) if component(d) == "worker"), None
        )
        if state.scale_down is not None or not rolled_out(deployment):
            state.stranded = set()
            return
        pods = stranded(workers, instances)
        for pod in pods:
            if uid_of(pod) in state.stranded and not is_deleting(pod):
                log.info("drained_pod_replaced", taskservice=key, pod=name_of(pod))
                await self._cluster.delete_pod(pod)
        state.stranded = {uid_of(pod) for pod in pods}

    async def _read_figures(self, key: Key, template: str, state: ResourceState) -> None:
        """Read the queue's figures for the status, every `figures_seconds` and after a rollout."""
        now = asyncio.get_running_loop().time()
        is_recent = now - state.figures_read_at < self._figures_seconds
        if is_recent and template == state.figures_template:
            return
        state.figures_read_at, state.figures_template = now, template
        pods = self._cache.of_instance(POD, key)
        try:
            queue, version = await state.service.queue(pods), await state.service.version(pods)
        except ServiceError as error:
            log.warning("figures_unknown", taskservice=key, error=str(error))
            return
        figures = {
            "ready": int(queue.get("ready") or 0),
            "scheduled": int(queue.get("scheduled") or 0),
            "running": int(queue.get("running") or 0),
            "blocked": int(queue.get("blocked") or 0),
            "oldestAgeSeconds": round(float(queue.get("oldest_age_seconds") or 0)),
        }
        revision = int(version["revision"]) if version.get("revision") is not None else None
        if (figures, revision) != (state.figures, state.schema_revision):
            state.figures, state.schema_revision = figures, revision
            self._wake(key)
