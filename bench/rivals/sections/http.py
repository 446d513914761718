"""End to end over HTTP: tasks created by an API process, alone and in batches, until one worker
process has completed them; and how long a client waits that creates one and reads it until it is
completed.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence

import httpx

from bench.requests import Server, call
from bench.rivals.bench import Bench
from bench.rivals.catalogue import OURS, Product
from bench.rivals.figures import Measures
from bench.rivals.processes import BenchError
from bench.rivals.stage import Stage
from tests.support.api_process import ApiProcess, api_processes

EVERYONE = False
BATCH = 1_000
TRIPS = 100
PAUSE_SECONDS = 0.05
TASKS = "/api/v1/tasks"


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """An API process and a worker process, new in each round."""
    if product is not OURS:
        raise BenchError("has no HTTP API")
    single, batches = bench.options.single, max(bench.options.tasks // BATCH, 1)
    for _ in range(bench.options.rounds):
        with (
            bench.stage(product) as stage,
            contextlib.closing(stage.board(1)),
            stage.workers(1),
            api_processes(database_url=stage.place.url, auth_mode="open", log_level="WARNING") as [
                api
            ],
        ):
            created(stage, api, TASKS, [task()] * 8)  # its clients' connections
            alone = created(stage, api, TASKS, [task()] * single)
            many = (
                created(stage, api, f"{TASKS}:batch", [{"tasks": [task()] * BATCH}] * batches)
                * BATCH
            )
            yield {
                "created alone, 8 clients, tasks/s": alone,
                f"created by {BATCH:,}, 8 clients, tasks/s": many,
                "created, and read until completed": trips(api),
            }


def task() -> dict[str, object]:
    """A task for the worker's handler; its time is not kept."""
    return {"title": "a task", "handler": "bench", "payload": 0}


def created(stage: Stage, api: ApiProcess, path: str, bodies: Sequence[object]) -> float:
    """Requests per second, from the first one sent until all their tasks have ended."""
    server = Server("api", api.process, api.port, path)
    sent = [json.dumps(body).encode() for body in bodies]
    began = time.monotonic()
    asyncio.run(call(server, [f"POST {path}"] * len(sent), sent, 201))
    stage.until(lambda: stage.place.unfinished() == 0)
    return len(sent) / (time.monotonic() - began)


def trips(api: ApiProcess) -> list[float]:
    """Milliseconds from the request that creates a task to the answer that shows it completed, one
    after the other.
    """
    waits = []
    with httpx.Client(base_url=api.url) as client:
        for _ in range(TRIPS):
            time.sleep(PAUSE_SECONDS)
            began = time.monotonic()
            where = client.post(TASKS, json=task()).raise_for_status().headers["location"]
            while client.get(where).raise_for_status().json()["status"] != "completed":
                pass
            waits.append((time.monotonic() - began) * 1e3)
    return waits
