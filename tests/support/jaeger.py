"""A real Jaeger (collector and query API, spans in memory) on 127.0.0.1, built from its Go module."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from task_service.embedded import free_port
from tests.support import go_tools
from tests.support.skipping import skip_or_fail
from tests.support.waiting import eventually

HOST = "127.0.0.1"
OTHER_SERVERS = (
    "admin.http",
    "collector.grpc-server",
    "collector.http-server",
    "collector.otlp.grpc",
    "query.grpc-server",
)


def require_tool(tool: go_tools.Tool) -> Path:
    """The built tool; where it cannot be built the test is left out, and with REQUIRE_CLUSTER=1
    that is a failure.
    """
    if reasons := go_tools.obstacles(tool):
        skip_or_fail("; ".join(reasons))
    return go_tools.build(tool)


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A running Jaeger: where spans are sent to, and what it has seen."""

    otlp: str
    query: str

    async def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace, as its query API tells them; an empty list for one that it has not
        seen.
        """
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.query}/api/traces/{trace_id}")
        if answer.status_code == 404:
            return []
        [found] = answer.raise_for_status().json()["data"]
        for span in found["spans"]:
            span["process"] = found["processes"][span["processID"]]
        return list(found["spans"])

    async def answers(self) -> bool:
        """Whether both its servers answer."""
        try:
            async with httpx.AsyncClient() as client:
                services = await client.get(f"{self.query}/api/services")
                spans = await client.post(f"{self.otlp}/v1/traces", json={})
        except httpx.TransportError:
            return False
        return services.status_code == spans.status_code == 200


@contextmanager
def jaeger_process() -> Iterator[Jaeger]:
    """Start Jaeger, built first if it is not in the cache; the caller waits until it is `ready`."""
    program = require_tool(go_tools.JAEGER)
    otlp, query = free_port(), free_port()
    ports = {f"{name}.host-port": free_port() for name in OTHER_SERVERS}
    ports |= {"collector.otlp.http.host-port": otlp, "query.http-server.host-port": query}
    argv = [str(program), *(f"--{name}={HOST}:{port}" for name, port in ports.items())]
    env = os.environ | {"SPAN_STORAGE_TYPE": "memory"}
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Jaeger(f"http://{HOST}:{otlp}", f"http://{HOST}:{query}")
    finally:
        # its spans are in memory: there is nothing to finish, and it may wait for clients
        process.kill()
        process.wait()


async def ready(jaeger: Jaeger) -> Jaeger:
    """Wait until it answers."""
    await eventually("Jaeger's first answer", jaeger.answers, 30)
    return jaeger


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """A span's attributes, by name."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parent(span: dict[str, Any]) -> str | None:
    """The id of the span's parent."""
    return next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), None)
