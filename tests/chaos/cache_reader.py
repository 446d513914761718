"""Simulated user of a chaos run, who changes a task and reads it through the API's cache."""

import asyncio
import contextlib

import httpx

from task_service.clocks import machine_seconds
from tests.chaos.system import RECOVERY_SECONDS, System
from tests.support.waiting import eventually

PAUSE_SECONDS = 0.2
STALE_SECONDS = 5.0
"""Time for which readers may miss an acknowledged change that did not reach Redis."""


class CacheReader:
    """Records acknowledged changes, and reports responses that are too old as problems."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._acknowledged: list[tuple[float, int]] = []
        self._path = ""

    async def run(self) -> None:
        """Change and read until cancelled, and continue after failed requests."""
        number = 0
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await self._once(number := number + 1)
            await asyncio.sleep(PAUSE_SECONDS)

    async def finish(self, running: "asyncio.Task[None]") -> None:
        """Stop, and check that a last read returns the last change."""
        running.cancel()
        await asyncio.wait([running])
        shown = await eventually("a response of the API", self._read_once, RECOVERY_SECONDS)
        if self._acknowledged and shown < self._acknowledged[-1][1]:
            self._system.problems.append(
                f"the last read returned {shown} instead of {self._acknowledged[-1][1]}"
            )

    async def _once(self, number: int) -> None:
        if not self._path:
            created = await self._system.request("POST", "/api/v1/tasks", json={"title": "0"})
            self._path = f"/api/v1/tasks/{created.json()['id']}"
        await self._system.request("PATCH", self._path, json={"title": str(number)})
        self._acknowledged.append((machine_seconds(), number))
        for _ in range(3):
            began = machine_seconds()
            shown = await self._read()
            oldest = max(
                (n for at, n in self._acknowledged if at <= began - STALE_SECONDS), default=0
            )
            if shown < oldest:
                self._system.problems.append(
                    f"a read returned {shown} long after {oldest} was acknowledged"
                )

    async def _read_once(self) -> int:
        """Return the number in the title, or 0 without a response."""
        with contextlib.suppress(httpx.HTTPError):
            return await self._read()
        return 0

    async def _read(self) -> int:
        return int((await self._system.request("GET", self._path)).json()["title"])
