"""HTTP server for probes and metrics, on the leader and on standbys."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest

from task_operator.metrics import REGISTRY


class Probes:
    """Serves /livez, /readyz and /metrics."""

    def __init__(self, host: str, port: int, problem: Callable[[], str]) -> None:
        """`problem` returns the reason why the process is unhealthy; empty if it is healthy."""
        self._host = host
        self._port = port
        self._problem = problem
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; return the port."""
        app = web.Application()
        app.router.add_get("/livez", self._probe)
        app.router.add_get("/readyz", self._probe)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        if self._runner:
            await self._runner.cleanup()

    async def _probe(self, _request: web.Request) -> web.Response:
        problem = self._problem()
        body = {"status": "failing", "problem": problem} if problem else {"status": "ok"}
        return web.json_response(body, status=503 if problem else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(REGISTRY), headers={"Content-Type": "text/plain; version=0.0.4"}
        )
