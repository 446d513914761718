"""Client of the service's management port: instances, releases, drains, figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from task_operator.kube.kinds import Key, Manifest
from task_operator.kube.objects import component, is_deleting, is_ready_pod, parse_time
from task_operator.management.trust import Tokens

TIMEOUT = httpx.Timeout(5.0, connect=1.0)
LIMITS = httpx.Limits(max_keepalive_connections=4, keepalive_expiry=60.0)
POD_ATTEMPTS = 3


class ServiceUnreachableError(Exception):
    """No pod of the service answered; the text says what each one did instead."""


@dataclass(frozen=True)
class Instance:
    """A registered worker process, as the service knows it."""

    id: str
    state: str
    pod_name: str
    pod_uid: str
    container: str
    started_at: datetime
    running: int

    @classmethod
    def from_json(cls, item: Manifest) -> Instance | None:
        """None for a process that runs in no pod."""
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
    """IPs of the pods to ask: Ready API pods, then Ready workers, then any pod with an address; IPv6 in brackets.

    Pods that are being deleted still answer and come last.
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


class ServiceClient:
    """Kept-alive connections to the pods of one TaskService."""

    def __init__(self, key: Key, tokens: Tokens, port: int) -> None:
        self._key = key
        self._tokens = tokens
        self._port = port
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=LIMITS, trust_env=False)
        self._last = ""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def workers(self, pods: Iterable[Manifest]) -> list[Instance]:
        """Registered instances in pods: active and draining ones, and dead ones of the last hour."""
        answer = await self._call("GET", "/internal/workers", pods)
        found = (Instance.from_json(item) for item in answer["workers"])
        return [instance for instance in found if instance]

    async def release(
        self, pods: Iterable[Manifest], worker_id: str, reason: str, detail: str
    ) -> Manifest | None:
        """Declare an instance dead and give its tasks back; None when the service does not know it."""
        path = f"/internal/workers/{worker_id}/release"
        return await self._call_known(
            "POST", path, pods, {"reason": reason, "detail": detail[:500]}
        )

    async def drain(self, pods: Iterable[Manifest], worker_id: str) -> Manifest | None:
        """Let an instance claim nothing more; None when the service does not know it."""
        return await self._call_known("POST", f"/internal/workers/{worker_id}/drain", pods, None)

    async def queue(self, pods: Iterable[Manifest]) -> Manifest:
        """Figures of the queue."""
        return await self._call("GET", "/internal/queue", pods)

    async def version(self, pods: Iterable[Manifest]) -> Manifest:
        """Version and schema revision."""
        return await self._call("GET", "/internal/version", pods)

    async def _call_known(
        self, method: str, path: str, pods: Iterable[Manifest], body: Any
    ) -> Manifest | None:
        try:
            return await self._call(method, path, pods, body)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise

    async def _call(
        self, method: str, path: str, pods: Iterable[Manifest], body: Any = None
    ) -> Manifest:
        """Ask one pod after the other; an answer of 4xx is an answer, anything else asks the next pod."""
        order = sorted(addresses(pods), key=lambda ip: ip != self._last)[:POD_ATTEMPTS]
        troubles = []
        for ip in order:
            try:
                response = await self._send(method, f"http://{ip}:{self._port}{path}", body)
            except httpx.TransportError as error:
                troubles.append(f"{ip}: {str(error) or type(error).__name__}")
                continue
            if response.status_code >= 500 or response.status_code in (401, 403):
                troubles.append(f"{ip}: {response.status_code} {response.text[:200]}")
                continue
            response.raise_for_status()
            self._last = ip
            return dict(response.json())
        raise ServiceUnreachableError("; ".join(troubles) or "no pod of the service is running")

    async def _send(self, method: str, url: str, body: Any) -> httpx.Response:
        response = await self._authorized(method, url, body)
        if (
            response.status_code == 401
        ):  # the keys or the account changed: one try with a fresh token
            self._tokens.forget(self._key)
            response = await self._authorized(method, url, body)
        return response

    async def _authorized(self, method: str, url: str, body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {await self._tokens.token(self._key)}"}
        return await self._http.request(method, url, json=body, headers=headers)
