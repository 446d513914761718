"""A steady load of requests as programs send them, over kept-alive and fresh connections; nothing is retried.

aiohttp, not httpx: the load shares the machine with the cluster, and where both fall behind, httpx's pool looks at each
request that waits for each that ends, and takes the processor time that the service needs to catch up.
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

KEPT_ALIVE_CONNECTIONS = 8
TIMEOUT_SECONDS = 20
CREATE_SHARE = 0.2
"""So many of the requests create a task; the others read."""
TASK_SECONDS = 0.5


@dataclass
class Tally:
    """What came of the requests."""

    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Connection errors and refusals: when (seconds from the start), what, over which kind of connection."""
    created: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    @property
    def requests(self) -> int:
        return self.answers.total() + sum(": no answer" in failure for failure in self.failures)


class Load:
    """So many requests per second, from `with` to its end; each is sent at its time, whatever the others do."""

    def __init__(self, url: str, per_second: float = 50) -> None:
        self.tally = Tally()
        self._url, self._period = url, 1 / per_second
        self._over = threading.Event()
        self._steady = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._random = random.Random(0)

    def __enter__(self) -> Tally:
        self._thread.start()
        assert self._steady.wait(30), "no request was answered"
        return self.tally

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(TIMEOUT_SECONDS + 10)

    async def _run(self) -> None:
        begun = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        kept = aiohttp.TCPConnector(limit=KEPT_ALIVE_CONNECTIONS, keepalive_timeout=60)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        clients = {
            name: aiohttp.ClientSession(self._url, timeout=timeout, connector=connector)
            for name, connector in (("kept-alive", kept), ("fresh", fresh))
        }
        for client in clients.values():
            client._retry_connection = (
                False  # as its own test client does: there is no public name for it
            )
        async with clients["kept-alive"], clients["fresh"], asyncio.TaskGroup() as requests:
            number = 0
            while not self._over.is_set():
                name = "fresh" if number % 2 else "kept-alive"
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
            async with self._send(client) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.tally.failures.append(
                f"{sent:.2f} s: no answer over a {connection} connection: {error!r}"
            )
            return
        self.tally.slowest_seconds = max(self.tally.slowest_seconds, clock() - sent)
        self.tally.answers[answer.status] += 1
        if answer.status >= 400:
            self.tally.failures.append(
                f"{sent:.2f} s: {answer.status} over a {connection} connection: {text}"
            )
        elif answer.status == HTTPStatus.CREATED:
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
