"""Constant load of HTTP requests over persistent and new connections, without retries.

It uses aiohttp: the load shares the machine with the cluster, and under overload the pool of httpx
scans all waiting requests whenever one ends, which takes CPU time from the service.
"""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType

import aiohttp

PERSISTENT_CONNECTIONS = 8
TIMEOUT_SECONDS = 20
CREATE_SHARE = 0.2
"""Share of the requests that create a task; the others read."""
TASK_SECONDS = 0.5


@dataclass
class Tally:
    """Results of the requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Failed requests: seconds from the start, error, and kind of connection."""
    created: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    @property
    def requests(self) -> int:
        return self.statuses.total() + sum(": no response" in failure for failure in self.failures)


class Load:
    """Sends requests at a constant rate during its `with` block, independently of each other."""

    def __init__(self, url: str, per_second: float = 50) -> None:
        self.tally = Tally()
        self._url, self._period = url, 1 / per_second
        self._over = threading.Event()
        self._steady = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._random = random.Random(0)

    def __enter__(self) -> Tally:
        self._thread.start()
        assert self._steady.wait(30), "no request got a response"
        return self.tally

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(TIMEOUT_SECONDS + 10)

    async def _run(self) -> None:
        begun = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        persistent = aiohttp.TCPConnector(limit=PERSISTENT_CONNECTIONS, keepalive_timeout=60)
        new = aiohttp.TCPConnector(limit=0, force_close=True)
        clients = {
            name: aiohttp.ClientSession(self._url, timeout=timeout, connector=connector)
            for name, connector in (("persistent", persistent), ("new", new))
        }
        for client in clients.values():
            client._retry_connection = False  # private, as in aiohttp's own test client
        async with clients["persistent"], clients["new"], asyncio.TaskGroup() as requests:
            number = 0
            while not self._over.is_set():
                name = "new" if number % 2 else "persistent"
                requests.create_task(
                    self._request(name, clients[name], lambda: time.monotonic() - begun)
                )
                number += 1
                await asyncio.sleep(max(0.0, begun + number * self._period - time.monotonic()))

    async def _request(
        self, connection: str, client: aiohttp.ClientSession, clock: Callable[[], float]
    ) -> None:
        sent = clock()
        try:
            async with self._send(client) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.tally.failures.append(
                f"{sent:.2f} s: no response over a {connection} connection: {error!r}"
            )
            return
        self.tally.slowest_seconds = max(self.tally.slowest_seconds, clock() - sent)
        self.tally.statuses[response.status] += 1
        if response.status >= 400:
            self.tally.failures.append(
                f"{sent:.2f} s: {response.status} over a {connection} connection: {text}"
            )
        elif response.status == HTTPStatus.CREATED:
            self.tally.created.append(str(json.loads(text)["id"]))
        self._steady.set()

    def _send(
        self, client: aiohttp.ClientSession
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._random.random() < CREATE_SHARE:
            body = {
                "title": "under load",
                "handler": "side_effect",
                "payload": {"seconds": TASK_SECONDS},
            }
            return client.post("/api/v1/tasks", json=body)
        if self.tally.created and self._random.random() < 0.5:
            return client.get(f"/api/v1/tasks/{self._random.choice(self.tally.created)}")
        return client.get("/api/v1/tasks", params={"limit": 5})
