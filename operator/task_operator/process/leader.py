"""What the holder of the Lease does: two keyed queues (reconcile, rescue) and three slow timers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import structlog

from task_operator.kube.api_client import ApiError, KubeApi
from task_operator.kube.cluster import Cluster
from task_operator.kube.informer import Store
from task_operator.kube.kinds import KINDS, POD, TASK_SERVICE, Key
from task_operator.management.service_client import ServiceClient, ServiceUnreachableError
from task_operator.management.trust import SigningKeys, Tokens
from task_operator.metrics import (
    RECONCILE_ERRORS,
    RECONCILE_SECONDS,
    RECONCILE_TOTAL,
    RESCUE_ERRORS,
    TASK_SERVICES,
)
from task_operator.process.settings import Settings
from task_operator.process.watches import Wakers
from task_operator.process.workqueue import KeyedQueue, backoff_seconds
from task_operator.reconcile import Parts, Reconciler
from task_operator.render import Renderer
from task_operator.rescue.rescuer import Rescuer
from task_operator.scaling.replicas import Replicas
from task_operator.state import Notebook
from task_operator.status.reporter import Reporter

log = structlog.get_logger(__name__)

RESCUE_RETRY_SECONDS = 0.1
RESCUE_RETRY_CEILING_SECONDS = 15.0


class Leader:
    """Everything that runs only in the leader."""

    def __init__(self, api: KubeApi, settings: Settings, renderer_version: str) -> None:
        self.store = Store()
        self._api = api
        self._settings = settings
        self._cluster = Cluster(api, self.store)
        tokens = Tokens(self._cluster, settings.pod_namespace, settings.service_account)
        self._notebook = Notebook(lambda key: ServiceClient(key, tokens, settings.management_port))
        self._signing_keys: SigningKeys | None = None
        reporter = Reporter(self._cluster)
        self._reconciler = Reconciler(
            Parts(
                cluster=self._cluster,
                store=self.store,
                renderer=Renderer(settings, renderer_version),
                notebook=self._notebook,
                reporter=reporter,
                replicas=Replicas(self._cluster, self.store, settings),
                settings=settings,
                signing_keys=lambda: self._signing_keys,
            )
        )
        self._passes = KeyedQueue(
            self._reconcile, self._reconcile_failed, at_once=settings.passes_at_once
        )
        self._rescuer = Rescuer(
            self._cluster, self.store, self._notebook, reporter, settings, self._passes.add
        )
        self._rescues = KeyedQueue(
            self._survey,
            self._survey_failed,
            at_once=settings.passes_at_once,
            backoff=lambda failures: backoff_seconds(
                failures, RESCUE_RETRY_SECONDS, RESCUE_RETRY_CEILING_SECONDS
            ),
        )
        self._timers: list[asyncio.Task[None]] = []

    @classmethod
    async def create(cls, api: KubeApi, settings: Settings) -> Leader:
        """Read the cluster once; raises ApiError."""
        leader = cls(api, settings, await Cluster(api, Store()).version())
        await leader._list_everything()
        await leader._read_signing_keys()
        return leader

    def start(self) -> None:
        """Begin with a pass over everything."""
        self._timers = [
            self._every(self._settings.resync_seconds, self._resync),
            self._every(self._settings.survey_seconds, self._survey_all),
            self._every(self._settings.trust_seconds, self._read_signing_keys),
        ]
        for key in self.store.task_services():
            self._passes.add(key)
            self._rescues.add(key)

    async def wait(self) -> None:
        """Return only when a timer has ended, which none does without a bug: the process then ends."""
        done, _ = await asyncio.wait(self._timers, return_when=asyncio.FIRST_COMPLETED)
        for timer in done:
            if not timer.cancelled() and (error := timer.exception()):
                log.error("timer_failed", timer=timer.get_name(), error=repr(error))

    async def close(self) -> None:
        """Stop passes and timers, and wait for their end."""
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await self._passes.close()
        await self._rescues.close()
        await self._notebook.close()

    def wakers(self) -> Wakers:
        """Where the watch events lead."""
        return Wakers(
            reconcile=lambda key, urgent: self._passes.add(key, urgent=urgent),
            rescue=self._rescue_now,
            login=self._api.login,
        )

    def _rescue_now(self, key: Key) -> None:
        notes = self._notebook.of(key)
        if notes.pod_event_at is None:
            notes.pod_event_at = asyncio.get_running_loop().time()
        self._rescues.add(key, urgent=True)

    async def _reconcile(self, key: Key) -> float | None:
        TASK_SERVICES.set(len(self.store.task_services()))
        with RECONCILE_SECONDS.time():
            again = await self._reconciler.reconcile(key)
        RECONCILE_TOTAL.labels("done").inc()
        return again

    def _reconcile_failed(self, key: Key, error: Exception, pause: float) -> None:
        RECONCILE_TOTAL.labels("failed").inc()
        RECONCILE_ERRORS.labels(
            error.reason if isinstance(error, ApiError) else type(error).__name__
        ).inc()
        expected = isinstance(error, ApiError)
        log.warning(
            "pass_failed",
            taskservice=key,
            error=str(error),
            retry_seconds=pause,
            exc_info=None if expected else error,
        )

    async def _survey(self, key: Key) -> float | None:
        return await self._rescuer.survey(key)

    def _survey_failed(self, key: Key, error: Exception, pause: float) -> None:
        RESCUE_ERRORS.labels(type(error).__name__).inc()
        expected = isinstance(error, ApiError | ServiceUnreachableError | httpx.HTTPError)
        log.warning(
            "survey_failed",
            taskservice=key,
            error=str(error),
            retry_seconds=pause,
            exc_info=None if expected else error,
        )

    async def _survey_all(self) -> None:
        for key in self.store.task_services():
            self._rescues.add(key)

    async def _resync(self) -> None:
        """List and look at everything: a watch that had to begin anew does not tell what was deleted meanwhile."""
        await self._list_everything()
        for key in self.store.task_services():
            self._passes.add(key)

    async def _list_everything(self) -> None:
        for namespace in self._settings.watch_namespaces or (None,):
            for kind in (TASK_SERVICE, *KINDS, POD):
                await self._cluster.refresh(kind, namespace)

    async def _read_signing_keys(self) -> None:
        issuer, jwks = await self._cluster.signing_keys()
        found = SigningKeys(issuer, jwks)
        if found != self._signing_keys:
            self._signing_keys = found
            log.info("signing_keys", issuer=issuer, keys=len(jwks.get("keys") or ()))
            if self._timers:
                for key in self.store.task_services():
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
