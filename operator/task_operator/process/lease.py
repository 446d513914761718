"""Leader election with a Lease, which is released on exit; a leader that loses it exits.

`kubernetes.aio.leaderelection` never releases the Lease, and if the API server refuses a
connection, its `run()` returns without stopping the leader's task.
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


class LeaseApi(Protocol):
    """The requests to the API server that the election needs; `KubeApi` implements them."""

    async def find(self, path: str) -> Manifest | None:
        """Return the Lease at a path, or None if it does not exist."""

    async def request(self, method: str, path: str, *, body: Manifest) -> Manifest:
        """Create or update the Lease."""


class Election:
    """One candidate of the leader election.

    It never compares the clocks of two machines. A Lease has expired if this process has not seen
    it change for the duration that the Lease specifies.
    """

    def __init__(
        self,
        api: LeaseApi,
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
        """Wait until this process holds the Lease; errors are logged and retried."""
        while not await self.try_acquire():
            await self._pause(self._settings.retry_seconds)
        log.info("leader", identity=self._settings.pod_name)

    async def hold(self) -> None:
        """Renew the Lease; return after `renew_seconds` of failures, or if it has a new holder."""
        while True:
            await self._pause(self._settings.retry_seconds)
            try:
                left = self._renewed_at + self._settings.renew_seconds - self._monotonic()
                if await asyncio.wait_for(self.try_acquire(), max(left, 0.1)):
                    continue
            except TimeoutError:
                log.warning("lease_renewal_timed_out")
            lost = self._lease is None or _holder(self._lease) != self._settings.pod_name
            if lost or self._monotonic() - self._renewed_at >= self._settings.renew_seconds:
                log.error("lease_lost", holder=_holder(self._lease) if self._lease else "")
                return

    async def release(self) -> None:
        """Release the Lease, so that a standby can take over without waiting for it to expire."""
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

    async def try_acquire(self) -> bool:
        """Try once to acquire or renew the Lease; return True if this process holds it."""
        started = self._monotonic()
        try:
            held = await self._acquire_or_renew()
        except ApiError as error:
            log.warning("lease_attempt_failed", error=str(error))
            return False
        if held:
            self._renewed_at = started
        return held

    async def _acquire_or_renew(self) -> bool:
        lease = await self._api.find(self._path)
        if lease is None:
            self._lease = await self._api.request(
                "POST", LEASE.path(self._settings.pod_namespace), body=self._new()
            )
            return True
        is_holder = _holder(lease) == self._settings.pod_name
        if not is_holder and not self._has_expired(lease):
            self._lease = lease
            return False
        spec = lease.setdefault("spec", {})
        if not is_holder:
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = _now()
        spec["holderIdentity"] = self._settings.pod_name
        spec["leaseDurationSeconds"] = int(self._settings.lease_seconds)
        spec["renewTime"] = _now()
        # The resourceVersion makes this a compare-and-swap: one of two candidates gets 409.
        self._lease = await self._api.request("PUT", self._path, body=lease)
        return True

    def _has_expired(self, lease: Manifest) -> bool:
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
