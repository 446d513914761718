"""Gives the tasks of dead worker processes back: level-based, on every telling pod event and on a slow timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import structlog

from task_operator.kube.cluster import Cluster
from task_operator.kube.informer import Store
from task_operator.kube.kinds import DEPLOYMENT, POD, Key, Manifest
from task_operator.kube.objects import component, is_deleting, name_of, uid_of
from task_operator.management.service_client import Instance, ServiceUnreachableError, addresses
from task_operator.metrics import RESCUE_SECONDS, RESCUED_TASKS, RESCUES
from task_operator.process.settings import Settings
from task_operator.rescue.judge import Retirement, Verdict, judge, newest_template
from task_operator.scaling.decide import stranded
from task_operator.state import Notebook, Notes
from task_operator.status.build import rolled_out
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)


class Rescuer:
    """Looks at the registered instances of a TaskService and releases those whose pod or container is gone."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        notebook: Notebook,
        reporter: Reporter,
        settings: Settings,
        wake: Callable[[Key], None],
    ) -> None:
        """`wake` asks for a reconcile pass, which writes what was found into the status."""
        self._cluster = cluster
        self._store = store
        self._notebook = notebook
        self._reporter = reporter
        self._settings = settings
        self._wake = wake

    async def survey(self, key: Key) -> float | None:
        """One look; raises what went wrong, so that the key's backoff repeats it."""
        task_service = self._store.task_service(key)
        if task_service is None:
            return None
        notes = self._notebook.of(key)
        pods = self._store.of_instance(POD, key)
        if not addresses(pods):
            return None  # nobody to ask: a pod that becomes Ready brings the next event
        instances = await notes.service.workers(pods)
        workers = [pod for pod in pods if component(pod) == "worker"]
        retirement = Retirement(newest_template(workers), frozenset(notes.retired))
        await asyncio.gather(
            *(self._look_at(key, instance, retirement, notes) for instance in instances)
        )
        notes.pod_event_at = None
        await self._replace_stranded(key, workers, instances, notes)
        await self._read_figures(key, retirement.newest_template, notes)
        return None

    async def _look_at(
        self, key: Key, instance: Instance, retirement: Retirement, notes: Notes
    ) -> None:
        """Release one instance, if the API server itself says that it is gone."""
        if instance.state == "dead" and instance.id in notes.explained:
            return
        departed = self._store.departed(instance.pod_uid)
        if (
            judge(instance, self._store.get(POD, key[0], instance.pod_name), departed, retirement)
            is None
        ):
            return
        pod = await self._cluster.get(POD, key[0], instance.pod_name)
        verdict = judge(instance, pod, departed, retirement)
        if verdict is None:
            return
        if instance.state == "dead" and verdict.reason == "unknown":
            notes.explain(instance.id)  # nothing to add to what the service knows
            return
        pods = self._store.of_instance(POD, key)
        answer = await notes.service.release(pods, instance.id, verdict.reason, verdict.detail)
        notes.explain(instance.id)
        if answer is not None:
            await self._record(key, instance, verdict, answer, notes)

    async def _record(
        self, key: Key, instance: Instance, verdict: Verdict, answer: Manifest, notes: Notes
    ) -> None:
        """Tell what was released, or, when successor or lease came first, of which tasks nobody knew why."""
        released = int(answer.get("released") or 0) + int(answer.get("failed") or 0)
        tasks = released + int(answer.get("explained") or 0)
        others_were_first = bool(answer.get("already_dead"))
        if others_were_first and not tasks:
            return
        if not others_were_first:
            RESCUES.labels(verdict.reason).inc()
            if notes.pod_event_at is not None:
                RESCUE_SECONDS.observe(asyncio.get_running_loop().time() - notes.pod_event_at)
        RESCUED_TASKS.labels(verdict.reason).inc(released)
        notes.last_rescue = {
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "workerId": instance.id,
            "pod": instance.pod_name,
            "reason": verdict.reason,
            "tasks": tasks,
        }
        log.info(
            "rescued", taskservice=key, worker=instance.id, pod=instance.pod_name, reason=verdict.reason, tasks=tasks,
            detail=verdict.detail,
        )  # fmt: skip
        self._wake(key)
        task_service = self._store.task_service(key)
        if task_service is not None:
            text = f"{tasks} tasks of {instance.pod_name} released ({verdict.reason}): {verdict.detail}"
            await self._reporter.tell(
                task_service, "Warning" if tasks else "Normal", "TasksReleased", text
            )

    async def _replace_stranded(
        self, key: Key, workers: list[Manifest], instances: list[Instance], notes: Notes
    ) -> None:
        """Replace pods that were drained for a scale-down which then took another pod, or was taken back.

        Only pods found so in two looks running, while nothing else moves: a pod that ends by itself is none of them.
        """
        deployment = next(
            (d for d in self._store.of_instance(DEPLOYMENT, key) if component(d) == "worker"), None
        )
        if notes.scale_down is not None or not rolled_out(deployment):
            notes.stranded = set()
            return
        found = stranded(workers, instances)
        for pod in found:
            if uid_of(pod) in notes.stranded and not is_deleting(pod):
                log.info("drained_pod_replaced", taskservice=key, pod=name_of(pod))
                await self._cluster.delete_pod(pod)
        notes.stranded = {uid_of(pod) for pod in found}

    async def _read_figures(self, key: Key, template: str, notes: Notes) -> None:
        """Take the queue's figures for the status, not more often than they may be written, and after a rollout."""
        now = asyncio.get_running_loop().time()
        if (
            now - notes.figures_at < self._settings.figures_seconds
            and template == notes.figures_template
        ):
            return
        notes.figures_at, notes.figures_template = now, template
        pods = self._store.of_instance(POD, key)
        try:
            queue, version = await notes.service.queue(pods), await notes.service.version(pods)
        except (ServiceUnreachableError, httpx.HTTPError) as error:
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
        if (figures, revision) != (notes.figures, notes.schema_revision):
            notes.figures, notes.schema_revision = figures, revision
            self._wake(key)
