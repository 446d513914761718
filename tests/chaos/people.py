"""A person beside a chaos run: changes a task again and again, and reads it back by way of the API's cache."""

import asyncio
import contextlib

import httpx

from task_service.clocks import machine_seconds
from tests.chaos.stage import BACK_SECONDS, Stage
from tests.support.waiting import eventually

PAUSE_SECONDS = 0.2
STALE_SECONDS = 5.0
"""So long an acknowledged change may be unknown to readers when it could not reach Redis."""


class Reader:
    """Keeps what was acknowledged, and complains of each answer that is older than it may be."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._acknowledged: list[tuple[float, int]] = []
        self._path = ""

    async def run(self) -> None:
        """Change and read until cancelled; what the API cannot answer is tried again."""
        number = 0
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await self._once(number := number + 1)
            await asyncio.sleep(PAUSE_SECONDS)

    async def finish(self, running: "asyncio.Task[None]") -> None:
        """Stop, and read a last time: that must be the last change."""
        running.cancel()
        await asyncio.wait([running])
        shown = await eventually("the API's answer", self._read_once, BACK_SECONDS)
        if self._acknowledged and shown < self._acknowledged[-1][1]:
            self._stage.troubles.append(
                f"the last read showed {shown}, not {self._acknowledged[-1][1]}"
            )

    async def _once(self, number: int) -> None:
        if not self._path:
            made = await self._stage.request("POST", "/api/v1/tasks", json={"title": "0"})
            self._path = f"/api/v1/tasks/{made.json()['id']}"
        await self._stage.request("PATCH", self._path, json={"title": str(number)})
        self._acknowledged.append((machine_seconds(), number))
        for _ in range(3):
            began = machine_seconds()
            shown = await self._read()
            oldest = max(
                (n for at, n in self._acknowledged if at <= began - STALE_SECONDS), default=0
            )
            if shown < oldest:
                self._stage.troubles.append(
                    f"a read showed {shown}, long after {oldest} had been acknowledged"
                )

    async def _read_once(self) -> int:
        """What is shown; 0 when there is no answer."""
        with contextlib.suppress(httpx.HTTPError):
            return await self._read()
        return 0

    async def _read(self) -> int:
        return int((await self._stage.request("GET", self._path)).json()["title"])
