"""Work of the leader: two keyed queues (reconcile and rescue) and three periodic timers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from task_operator.children import Children
from task_operator.kube.api_client import ApiError, KubeApi
from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import KINDS, POD, TASK_SERVICE, Key
from task_operator.kube.object_cache import ObjectCache
from task_operator.management.service_client import ServiceClient, ServiceError
from task_operator.management.trust import SigningKeys, Tokens
from task_operator.metrics import (
    RECONCILE_ERRORS,
    RECONCILE_SECONDS,
    RECONCILE_TOTAL,
    RESCUE_ERRORS,
    TASK_SERVICES,
)
from task_operator.process.settings import Settings
from task_operator.process.watches import Callbacks
from task_operator.process.workqueue import KeyedQueue, backoff_seconds
from task_operator.reconcile import Reconciler
from task_operator.render import Renderer
from task_operator.rescue.rescuer import Rescuer
from task_operator.scaling.replicas import Replicas
from task_operator.state import StateStore
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)

RESCUE_RETRY_SECONDS = 0.1
RESCUE_RETRY_CEILING_SECONDS = 15.0


def _rescue_backoff(failures: int) -> float:
    return backoff_seconds(failures, RESCUE_RETRY_SECONDS, RESCUE_RETRY_CEILING_SECONDS)


class Leader:
    """Builds and runs everything that only the leader runs."""

    def __init__(self, api: KubeApi, settings: Settings, kube_version: str) -> None:
        """`kube_version` is the version of the API server, for helm."""
        self.cache = ObjectCache()
        self._settings = settings
        self._login = api.login
        self._cluster = Cluster(api, self.cache)
        self._signing_keys: SigningKeys | None = None
        tokens = Tokens(self._cluster, settings.pod_namespace, settings.service_account)
        self._states = StateStore(lambda key: ServiceClient(key, tokens, settings.management_port))
        reporter = Reporter(self._cluster)
        self._reconciler = self._build_reconciler(reporter, kube_version)
        self._passes = KeyedQueue(
            self._reconcile, self._reconcile_failed, at_once=settings.passes_at_once
        )
        self._rescuer = Rescuer(
            self._cluster,
            self.cache,
            self._states,
            reporter,
            settings.figures_seconds,
            self._passes.add,
        )
        self._rescues = KeyedQueue(
            self._rescuer.check,
            self._check_failed,
            at_once=settings.passes_at_once,
            backoff=_rescue_backoff,
        )
        self._timers: list[asyncio.Task[None]] = []

    def _build_reconciler(self, reporter: Reporter, kube_version: str) -> Reconciler:
        settings = self._settings
        renderer = Renderer(
            settings.helm,
            settings.chart,
            settings.pod_namespace,
            kube_version,
            settings.renders_at_once,
        )
        return Reconciler(
            cluster=self._cluster,
            cache=self.cache,
            states=self._states,
            children=Children(self._cluster, self.cache, reporter),
            renderer=renderer,
            replicas=Replicas(self._cluster, self.cache, settings.drain_seconds),
            reporter=reporter,
            signing_keys=lambda: self._signing_keys,
            subject=settings.subject,
            migration_retry_seconds=settings.migration_retry_seconds,
        )

    @classmethod
    async def create(cls, api: KubeApi, settings: Settings) -> Leader:
        """Read all objects and the signing keys once; raise ApiError."""
        leader = cls(api, settings, await Cluster(api, ObjectCache()).version())
        await leader._list_everything()
        await leader._read_signing_keys()
        return leader

    def start(self) -> None:
        """Start the timers, and one pass and one check for every TaskService."""
        self._timers = [
            self._every(self._settings.resync_seconds, self._resync),
            self._every(self._settings.survey_seconds, self._check_all),
            self._every(self._settings.trust_seconds, self._read_signing_keys),
        ]
        for key in self.cache.task_services():
            self._passes.add(key)
            self._rescues.add(key)

    async def wait(self) -> None:
        """Wait for the end of a timer, which is a bug: the process then exits."""
        done, _ = await asyncio.wait(self._timers, return_when=asyncio.FIRST_COMPLETED)
        for timer in done:
            if not timer.cancelled() and (error := timer.exception()):
                log.error("timer_failed", timer=timer.get_name(), error=repr(error))

    async def close(self) -> None:
        """Cancel timers, passes and checks, and wait until they have ended."""
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await self._passes.close()
        await self._rescues.close()
        await self._states.close()

    def callbacks(self) -> Callbacks:
        """Return the functions that the watch handlers call."""
        return Callbacks(
            reconcile=lambda key, urgent: self._passes.add(key, urgent=urgent),
            rescue=self._rescue_now,
            login=self._login,
        )

    def _rescue_now(self, key: Key) -> None:
        state = self._states.get(key)
        if state.pod_event_at is None:
            state.pod_event_at = asyncio.get_running_loop().time()
        self._rescues.add(key, urgent=True)

    async def _reconcile(self, key: Key) -> float | None:
        TASK_SERVICES.set(len(self.cache.task_services()))
        with RECONCILE_SECONDS.time():
            again = await self._reconciler.reconcile(key)
        RECONCILE_TOTAL.labels("done").inc()
        return again

    def _reconcile_failed(self, key: Key, error: Exception, pause: float) -> None:
        is_expected = isinstance(error, ApiError)
        reason = error.reason if isinstance(error, ApiError) else type(error).__name__
        RECONCILE_TOTAL.labels("failed").inc()
        RECONCILE_ERRORS.labels(reason).inc()
        log.warning(
            "pass_failed",
            taskservice=key,
            error=str(error),
            retry_seconds=pause,
            exc_info=None if is_expected else error,
        )

    def _check_failed(self, key: Key, error: Exception, pause: float) -> None:
        is_expected = isinstance(error, ApiError | ServiceError)
        RESCUE_ERRORS.labels(type(error).__name__).inc()
        log.warning(
            "rescue_check_failed",
            taskservice=key,
            error=str(error),
            retry_seconds=pause,
            exc_info=None if is_expected else error,
        )

    async def _check_all(self) -> None:
        for key in self.cache.task_services():
            self._rescues.add(key)

    async def _resync(self) -> None:
        """List and reconcile everything: a restarted watch does not report earlier deletions."""
        await self._list_everything()
        for key in self.cache.task_services():
            self._passes.add(key)

    async def _list_everything(self) -> None:
        for namespace in self._settings.watch_namespaces or (None,):
            for kind in (TASK_SERVICE, *KINDS, POD):
                await self._cluster.refresh(kind, namespace)

    async def _read_signing_keys(self) -> None:
        issuer, jwks = await self._cluster.signing_keys()
        keys = SigningKeys(issuer, jwks)
        if keys != self._signing_keys:
            self._signing_keys = keys
            log.info("signing_keys", issuer=issuer, keys=len(jwks.get("keys") or ()))
            if self._timers:
                for key in self.cache.task_services():
                    self._passes.add(key)

    def _every(self, seconds: float, action: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        async def loop() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await action()
                except ApiError as error:
                    log.warning("timer_error", timer=action.__name__, error=str(error))

        return asyncio.create_task(loop(), name=action.__name__.strip("_"))
