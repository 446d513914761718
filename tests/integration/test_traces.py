"""Traces from the request through the queue to the outgoing call, and a missing collector."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from task_service.embedded import free_port
from tests.support.jaeger import jaeger_process, parent, ready, tags
from tests.support.receiver import Answer, receiver
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


class Service:
    """A `task-service serve` process with traces enabled."""

    def __init__(self, database: str, folder: Path, **settings: object) -> None:
        self.ports = {"PORT": free_port(), "MANAGEMENT_PORT": free_port()}
        given = {
            "DATABASE_URL": database, "HOST": "127.0.0.1", "MANAGEMENT_HOST": "127.0.0.1", "RUNTIME_DIR": folder,
            "AUTH_MODE": "open", "OTEL_ENABLED": True, "WEBHOOK_ALLOW_PRIVATE": True, "RETRY_BASE_SECONDS": 0.05,
            "APP_NAME": "traced",
        }  # fmt: skip
        self.env = os.environ | {
            name: str(value) for name, value in (given | self.ports | settings).items()
        }
        self.lines: list[dict[str, Any]] = []
        self.output = b""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[httpx.AsyncClient]:
        """Start the service and yield a client of it; stop the service with SIGTERM afterwards."""
        argv = [sys.executable, "-m", "task_service.cli", "serve"]
        process = await asyncio.create_subprocess_exec(
            *argv, env=self.env, cwd="/", stdout=PIPE, stderr=PIPE
        )
        output = asyncio.create_task(process.communicate())
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{self.ports['PORT']}", timeout=20
            ) as client:
                await eventually(
                    "the service's first answer",
                    lambda: self._is_ready(client, process, output),
                    60,
                )
                yield client
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            self.output, errors = await output
            self.lines = [json.loads(line) for line in errors.splitlines() if line.startswith(b"{")]

    async def _is_ready(
        self,
        client: httpx.AsyncClient,
        process: Process,
        output: "asyncio.Task[tuple[bytes, bytes]]",
    ) -> bool:
        assert process.returncode is None, output.result()
        with contextlib.suppress(httpx.TransportError):
            return (await client.get("/docs")).status_code == 200
        return False


async def run_webhook(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Create a task that calls this URL in the caller's trace, and wait until it is completed."""
    body = {"title": "call", "handler": "webhook", "payload": {"url": url, "body": {"n": 1}}}
    created = (
        (await client.post("/api/v1/tasks", json=body, headers=TRACEPARENT))
        .raise_for_status()
        .json()
    )

    async def completed() -> dict[str, Any] | None:
        task: dict[str, Any] = (await client.get(f"/api/v1/tasks/{created['id']}")).json()
        return task if task["status"] == "completed" else None

    return await eventually("the task's completion", completed, 30)


@pytest.mark.timeout(1200)  # Jaeger may have to be built
async def test_jaeger_shows_one_trace_from_request_to_outgoing_call(
    database: str, tmp_path: Path
) -> None:
    with jaeger_process() as jaeger, receiver() as target:
        await ready(jaeger)
        target.answers.append(Answer(503))
        settings = {
            "OTEL_EXPORTER_ENDPOINT": jaeger.otlp,
            "OTEL_SERVICE_NAME": "shop",
            "POD_NAME": "pod-7",
        }
        service = Service(database, tmp_path, **settings)
        async with service.running() as client:
            task = await run_webhook(client, f"{target.url}/hook")
        spans = await jaeger.trace(TRACE)
    names = {span["operationName"] for span in spans}
    assert {"POST /api/v1/tasks", "run webhook", "POST"} <= names
    assert any("INSERT INTO tasks" in str(tags(span).get("db.query.text")) for span in spans), names
    [request] = [span for span in spans if span["operationName"] == "POST /api/v1/tasks"]
    failed, succeeded = sorted(
        (s for s in spans if s["operationName"] == "run webhook"), key=lambda s: s["startTime"]
    )
    calls = {parent(span): span for span in spans if span["operationName"] == "POST"}
    assert parent(request) == CALLER
    assert {parent(failed), parent(succeeded)} == {request["spanID"]}
    assert set(calls) == {failed["spanID"], succeeded["spanID"]}
    assert tags(request)["http.response.status_code"] == 201
    assert tags(request)["http.route"] == "/api/v1/tasks"
    assert tags(failed)["otel.status_code"] == "ERROR"
    attributes = tags(succeeded)
    assert (attributes["task.id"], attributes["task.attempt"], attributes["task.outcome"]) == (
        task["id"],
        2,
        "completed",
    )
    process = {tag["key"]: tag["value"] for tag in request["process"]["tags"]}
    assert (request["process"]["serviceName"], process["k8s.pod.name"]) == ("shop", "pod-7")
    # The called service receives the calling span, and log lines contain the trace.
    assert [r.headers["traceparent"].split("-")[1:3] for r in target.received] == [
        [TRACE, calls[failed["spanID"]]["spanID"]],
        [TRACE, calls[succeeded["spanID"]]["spanID"]],
    ]
    logged = {
        line["event"]: line["span_id"] for line in service.lines if line.get("trace_id") == TRACE
    }
    assert logged["task_created"] == request["spanID"]
    assert logged["attempt_failed"] == failed["spanID"]
    assert logged["webhook_answered"] == succeeded["spanID"]


async def test_console_exporter_prints_every_span_including_the_last(
    database: str, tmp_path: Path
) -> None:
    service = Service(database, tmp_path, OTEL_EXPORTER="console")
    with receiver() as target:
        async with service.running() as client:
            await run_webhook(client, target.url)
            last = (await client.get("/api/v1/tasks?limit=1")).headers["x-request-id"]
    spans = [json.loads(line) for line in service.output.splitlines()]
    assert {"POST /api/v1/tasks", "run webhook"} <= {
        s["name"] for s in spans if TRACE in s["context"]["trace_id"]
    }
    assert last in {s["attributes"].get("http.request_id") for s in spans}
    assert "GET /api/v1/tasks" in {s["name"] for s in spans}
    resource = spans[0]["resource"]["attributes"]
    assert (resource["service.name"], resource["deployment.environment.name"]) == (
        "traced",
        "development",
    )


async def test_unsampled_trace_is_not_exported_but_propagated(
    database: str, tmp_path: Path
) -> None:
    service = Service(database, tmp_path, OTEL_EXPORTER="console")
    with receiver() as target:
        async with service.running() as client:
            body = {"title": "call", "handler": "webhook", "payload": {"url": target.url}}
            unsampled = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
            await client.post("/api/v1/tasks", json=body, headers=unsampled)
            await eventually("the webhook", lambda: asyncio.sleep(0, target.received))
    assert target.received[0].headers["traceparent"].startswith(f"00-{TRACE}-")
    assert TRACE.encode() not in service.output


@pytest.mark.parametrize("silent", [False, True], ids=["connection refused", "no response"])
async def test_missing_collector_is_logged_once_and_delays_no_request(
    database: str, tmp_path: Path, silent: bool
) -> None:
    with contextlib.ExitStack() as stack:
        endpoint = f"http://127.0.0.1:{free_port()}"
        if silent:
            server = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
            stack.callback(server.close)
            endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        service = Service(database, tmp_path, OTEL_EXPORTER_ENDPOINT=endpoint)
        async with service.running() as client:
            seconds = []
            for _ in range(200):
                started_at = time.monotonic()
                assert (await client.get("/api/v1/tasks?limit=1")).status_code == 200
                seconds.append(time.monotonic() - started_at)
            started_at = time.monotonic()
    assert sorted(seconds)[100] < 0.25
    assert time.monotonic() - started_at < 15  # the wait for the last spans is limited
    events = [
        line["event"]
        for line in service.lines
        if "traces" in line["event"] or "opentel" in line["logger"]
    ]
    assert 1 <= len(events) <= 3, events
