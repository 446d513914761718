"""Client of the service's management port: worker instances, releases, drains and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import aiohttp

from task_operator.kube.kinds import Key, Manifest
from task_operator.kube.objects import component, is_deleting, is_ready_pod, parse_time

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=1.0, sock_read=5.0)
KEEPALIVE_SECONDS = 60.0
POD_ATTEMPTS = 3


class ServiceError(Exception):
    """A request to the service failed."""


class ServiceUnreachableError(ServiceError):
    """No pod of the service gave a usable response; the message lists the result for each pod."""


class ServiceResponseError(ServiceError):
    """The service rejected a request."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: {status} {text[:200]}")
        self.status = status


@dataclass(frozen=True)
class Instance:
    """A worker process that is registered with the service."""

    id: str
    state: str
    pod_name: str
    pod_uid: str
    container: str
    started_at: datetime
    running: int

    @classmethod
    def from_json(cls, item: Manifest) -> Instance | None:
        """Parse an instance; return None for a process outside Kubernetes."""
        if not item.get("pod_uid") or not item.get("pod_name"):
            return None
        return cls(
            id=str(item["id"]),
            state=str(item["state"]),
            pod_name=str(item["pod_name"]),
            pod_uid=str(item["pod_uid"]),
            container=str(item.get("container") or "worker"),
            started_at=parse_time(item["process_started_at"]),
            running=int(item.get("running") or 0),
        )


def addresses(pods: Iterable[Manifest]) -> list[str]:
    """Return the IPs of the running pods in the order in which to try them; IPv6 in brackets.

    Ready API pods come first, then Ready workers, then the other pods. Pods that are being deleted
    still respond, but come last.
    """
    ranked = []
    for pod in pods:
        ip = (pod.get("status") or {}).get("podIP")
        if not ip or component(pod) not in ("api", "worker"):
            continue
        if (pod.get("status") or {}).get("phase") != "Running":
            continue
        rank = (not is_ready_pod(pod), is_deleting(pod), component(pod) != "api")
        ranked.append((rank, f"[{ip}]" if ":" in ip else str(ip)))
    return [ip for _, ip in sorted(ranked)]


class TokenSource(Protocol):
    """Tokens for the management port; `Tokens` implements it."""

    async def token(self, key: Key) -> str:
        """Return a valid token."""

    def forget(self, key: Key) -> None:
        """Drop a token that was rejected."""


class ServiceClient:
    """Persistent connections to the pods of one TaskService."""

    def __init__(self, key: Key, tokens: TokenSource, port: int) -> None:
        self._key = key
        self._tokens = tokens
        self._port = port
        # One release per dead worker may run at the same time: the connections have no limit.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        self._last_ip = ""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def workers(self, pods: Iterable[Manifest]) -> list[Instance]:
        """Return the instances in pods: active, draining, and those that died in the last hour."""
        answer = await self._call("GET", "/internal/workers", pods)
        instances = (Instance.from_json(item) for item in answer["workers"])
        return [instance for instance in instances if instance]

    async def release(
        self, pods: Iterable[Manifest], worker_id: str, reason: str, detail: str
    ) -> Manifest | None:
        """Declare an instance dead and release its tasks; None if the service does not know it."""
        path = f"/internal/workers/{worker_id}/release"
        return await self._call_known(
            "POST", path, pods, {"reason": reason, "detail": detail[:500]}
        )

    async def drain(self, pods: Iterable[Manifest], worker_id: str) -> Manifest | None:
        """Stop an instance from claiming tasks; return None if the service does not know it."""
        return await self._call_known("POST", f"/internal/workers/{worker_id}/drain", pods, None)

    async def queue(self, pods: Iterable[Manifest]) -> Manifest:
        """Return the figures of the queue."""
        return await self._call("GET", "/internal/queue", pods)

    async def version(self, pods: Iterable[Manifest]) -> Manifest:
        """Return the version and the schema revision."""
        return await self._call("GET", "/internal/version", pods)

    async def _call_known(
        self, method: str, path: str, pods: Iterable[Manifest], body: Any
    ) -> Manifest | None:
        try:
            return await self._call(method, path, pods, body)
        except ServiceResponseError as error:
            if error.status == 404:
                return None
            raise

    async def _call(
        self, method: str, path: str, pods: Iterable[Manifest], body: Any = None
    ) -> Manifest:
        """Try one pod after the other until one gives a definite response.

        A 5xx response, 401 and 403 are not definite, and neither is a connection error.
        """
        ips = sorted(addresses(pods), key=lambda ip: ip != self._last_ip)[:POD_ATTEMPTS]
        failures = []
        for ip in ips:
            try:
                response = await self._send(method, f"http://{ip}:{self._port}{path}", body)
                text = (await response.read()).decode(errors="replace")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failures.append(f"{ip}: {str(error) or type(error).__name__}")
                continue
            if response.status >= 500 or response.status in (401, 403):
                failures.append(f"{ip}: {response.status} {text[:200]}")
                continue
            if response.status >= 300:
                raise ServiceResponseError(method, path, response.status, text)
            self._last_ip = ip
            return dict(json.loads(text))
        raise ServiceUnreachableError("; ".join(failures) or "no pod of the service is running")

    async def _send(self, method: str, url: str, body: Any) -> aiohttp.ClientResponse:
        response = await self._authorized(method, url, body)
        if response.status == 401:  # the keys or the account changed: retry with a new token
            response.release()
            self._tokens.forget(self._key)
            response = await self._authorized(method, url, body)
        return response

    async def _authorized(self, method: str, url: str, body: Any) -> aiohttp.ClientResponse:
        headers = {"Authorization": f"Bearer {await self._tokens.token(self._key)}"}
        return await self._session.request(
            method, url, json=body, headers=headers, allow_redirects=False
        )
