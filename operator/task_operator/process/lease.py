"""Leader election by a Lease, small on purpose: released on exit, and the process ends when it loses.

`kubernetes.aio.leaderelection` never releases the Lease, and its `run()` ends without stopping the leader's task when
the API server refuses a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from task_operator.kube.api_client import ApiError
from task_operator.kube.kinds import LEASE, Manifest
from task_operator.process.settings import Settings

log = structlog.get_logger(__name__)


class Requests(Protocol):
    """What the election needs of the API server."""

    async def find(self, path: str) -> Manifest | None:
        """GET, or None."""

    async def request(self, method: str, path: str, *, body: Manifest) -> Manifest:
        """Any other request."""


class Election:
    """One candidate.

    The holder's clock is never compared with ours: a Lease is over when it has not changed for as long as it says,
    measured here.
    """

    def __init__(
        self,
        api: Requests,
        settings: Settings,
        *,
        monotonic: Callable[[], float] | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._settings = settings
        self._monotonic = monotonic or (lambda: asyncio.get_running_loop().time())
        self._pause = pause
        self._seen = ""
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._lease: Manifest | None = None

    @property
    def _path(self) -> str:
        return LEASE.path(self._settings.pod_namespace, self._settings.lease_name)

    async def acquire(self) -> None:
        """Return when this process holds the Lease; errors are logged and retried."""
        while not await self._attempt():
            await self._pause(self._settings.retry_seconds)
        log.info("leader", identity=self._settings.pod_name)

    async def hold(self) -> None:
        """Renew until that has failed for `renew_seconds`, or somebody else holds the Lease; then return."""
        while True:
            await self._pause(self._settings.retry_seconds)
            try:
                left = self._renewed_at + self._settings.renew_seconds - self._monotonic()
                if await asyncio.wait_for(self._attempt(), max(left, 0.1)):
                    continue
            except TimeoutError:
                log.warning("lease_renewal_timed_out")
            lost = self._lease is None or _holder(self._lease) != self._settings.pod_name
            if lost or self._monotonic() - self._renewed_at >= self._settings.renew_seconds:
                log.error("lease_lost", holder=_holder(self._lease) if self._lease else "")
                return

    async def release(self) -> None:
        """Give the Lease up, so that a standby need not wait for its end."""
        lease = self._lease
        if lease is None or _holder(lease) != self._settings.pod_name:
            return
        lease["spec"] = lease["spec"] | {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "renewTime": _now(),
        }
        try:
            await self._api.request("PUT", self._path, body=lease)
            log.info("lease_released", identity=self._settings.pod_name)
        except ApiError as error:
            log.warning("lease_not_released", error=str(error))
        self._lease = None

    async def _attempt(self) -> bool:
        """Take or renew the Lease once."""
        started = self._monotonic()
        try:
            held = await self._take()
        except ApiError as error:
            log.warning("lease_attempt_failed", error=str(error))
            return False
        if held:
            self._renewed_at = started
        return held

    async def _take(self) -> bool:
        lease = await self._api.find(self._path)
        if lease is None:
            self._lease = await self._api.request(
                "POST", LEASE.path(self._settings.pod_namespace), body=self._new()
            )
            return True
        mine = _holder(lease) == self._settings.pod_name
        if not mine and not self._is_over(lease):
            self._lease = lease
            return False
        spec = lease.setdefault("spec", {})
        if not mine:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = _now()
        spec["holderIdentity"] = self._settings.pod_name
        spec["leaseDurationSeconds"] = int(self._settings.lease_seconds)
        spec["renewTime"] = _now()
        # The resourceVersion in the body makes this a compare-and-swap: of two candidates one gets 409.
        self._lease = await self._api.request("PUT", self._path, body=lease)
        return True

    def _is_over(self, lease: Manifest) -> bool:
        version = str(lease["metadata"].get("resourceVersion"))
        if version != self._seen:
            self._seen, self._seen_at = version, self._monotonic()
        if not _holder(lease):
            return True
        duration = float(
            (lease.get("spec") or {}).get("leaseDurationSeconds") or self._settings.lease_seconds
        )
        return self._monotonic() - self._seen_at > duration

    def _new(self) -> Manifest:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {
                "name": self._settings.lease_name,
                "namespace": self._settings.pod_namespace,
            },
            "spec": {
                "holderIdentity": self._settings.pod_name,
                "leaseDurationSeconds": int(self._settings.lease_seconds),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": 0,
            },
        }


def _holder(lease: Manifest) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
