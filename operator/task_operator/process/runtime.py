"""The process: probes and leader election; as the leader also watches, queues and timers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

import kopf
import structlog

from task_operator.kube.api_client import ApiError, KubeApi
from task_operator.kube.cluster import Cluster
from task_operator.kube.object_cache import ObjectCache
from task_operator.metrics import LEADER
from task_operator.process import watches
from task_operator.process.leader import Leader
from task_operator.process.lease import Election
from task_operator.process.probes import Probes
from task_operator.process.settings import Settings

log = structlog.get_logger(__name__)

EXIT_STOPPED = 0
EXIT_LEASE_LOST = 1
CRD_PAUSE_SECONDS = 2.0


async def run(settings: Settings) -> int:
    """Run until a signal; return 1 if the process lost its Lease or failed, otherwise 0."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    _stop_on_signals(loop, stop)
    probes = Probes(settings.host, settings.port, lambda: "")
    port = await probes.start()
    log.info("started", port=port, identity=settings.pod_name)
    api = await KubeApi.connect()
    election = Election(api, settings)
    try:
        if await _first(election.acquire(), stop.wait()) != 0:
            return EXIT_STOPPED
        # Started before kopf, because kopf cancels the tasks that start after it.
        holding = asyncio.create_task(election.hold(), name="hold the lease")
        LEADER.set(1)
        try:
            failed = await _lead(api, settings, stop, holding)
        finally:
            LEADER.set(0)
            await _cancel(holding)
        return EXIT_LEASE_LOST if failed else EXIT_STOPPED
    finally:
        await election.release()
        await api.close()
        await probes.stop()


async def _lead(
    api: KubeApi, settings: Settings, stop: asyncio.Event, holding: asyncio.Task[None]
) -> bool:
    """Work until a signal; return True if the work ended without one, as on a lost Lease."""
    leader: Leader | None = None
    setting_up = asyncio.create_task(_set_up(api, settings), name="set up")
    stopping = asyncio.create_task(stop.wait(), name="wait for a signal")
    watching: asyncio.Task[None] | None = None
    try:
        await asyncio.wait({setting_up, stopping, holding}, return_when=asyncio.FIRST_COMPLETED)
        if not setting_up.done():
            return holding.done()
        leader = setting_up.result()
        stop_watching = asyncio.Event()
        tasks = await kopf.spawn_tasks(**_watch_options(leader, settings, stop_watching))
        _stop_on_signals(asyncio.get_running_loop(), stop)  # replaces the handlers of kopf
        ignored = {task for task in asyncio.all_tasks() if task not in tasks}
        watching = asyncio.create_task(kopf.run_tasks(tasks, ignored=ignored), name="watch")
        leader.start()
        failure = asyncio.create_task(leader.wait(), name="timers")
        await asyncio.wait(
            {watching, stopping, holding, failure}, return_when=asyncio.FIRST_COMPLETED
        )
        await leader.close()
        await _cancel(failure)
        stop_watching.set()
        if watching.done():
            watching.result()
        return not stop.is_set()
    finally:
        await _cancel(setting_up)
        await _cancel(stopping)
        if leader:
            await leader.close()
        if watching:
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def _set_up(api: KubeApi, settings: Settings) -> Leader:
    """Wait for the API server and the CRD, then list everything; errors are logged and retried."""
    while True:
        try:
            if await Cluster(api, ObjectCache()).has_task_service_crd():
                return await Leader.create(api, settings)
            log.warning(
                "crd_missing", message="the CRD taskservices.taskservice.dev is not installed"
            )
        except ApiError as error:
            log.warning("setup_failed", error=str(error))
        await asyncio.sleep(CRD_PAUSE_SECONDS)


def _watch_options(leader: Leader, settings: Settings, stop: asyncio.Event) -> dict[str, Any]:
    registry = kopf.OperatorRegistry()
    watches.register(registry, leader.cache, leader.callbacks())
    options: dict[str, Any] = {
        "registry": registry,
        "settings": watches.kopf_settings(bool(settings.watch_namespaces)),
        "standalone": True,
        "identity": settings.pod_name,  # the default needs a user name, which an image may lack
        "stop_flag": stop,
    }
    if settings.watch_namespaces:
        return options | {"namespaces": list(settings.watch_namespaces)}
    return options | {"clusterwide": True}


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _first(*coroutines: Coroutine[Any, Any, Any]) -> int:
    """Return the index of the coroutine that ends first; cancel the others."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        index = next(index for index, task in enumerate(tasks) if task.done())
        tasks[index].result()
        return index
    finally:
        for task in tasks:
            await _cancel(task)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait({task})
