"""Setup of OpenTelemetry: sampling, export, and tolerance of an unavailable collector.

A thread exports spans from a bounded queue. Spans that do not fit or cannot be sent are dropped and
counted. The queue's statements (asyncpg without SQLAlchemy) have no spans: claims and heartbeats
would dominate each trace.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.settings import Settings
from task_service.telemetry.helpers import INSTRUMENTATION
from task_service.telemetry.instrumentation import RequestSpans, observe_statements
from task_service.telemetry.metrics import SPANS_LOST

EXPORT_SECONDS, FLUSH_SECONDS = 5.0, 5.0
EXPORT_EVERY_MS, WAITING_MAX, BATCH = 1000, 4096, 512
TRACES_PATH = "/v1/traces"
log = structlog.get_logger(__name__)


class Tracing:
    """The traces of a process."""

    def __init__(self, settings: Settings, exporter: SpanExporter | None = None) -> None:
        # Current attribute names (`http.request.method`), which are not the default yet.
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")
        self.provider = TracerProvider(
            resource=resource_of(settings),
            sampler=ParentBased(root=RootSampler(TraceIdRatioBased(settings.otel_sample_ratio))),
            shutdown_on_exit=False,
        )
        processor = BatchSpanProcessor(
            WatchedExporter(exporter or exporter_of(settings), settings),
            max_queue_size=WAITING_MAX,
            schedule_delay_millis=EXPORT_EVERY_MS,
            max_export_batch_size=BATCH,
        )
        self.provider.add_span_processor(processor)
        trace.set_tracer_provider(self.provider)
        if settings.log_level != "DEBUG":  # `WatchedExporter` logs failures once
            logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        HTTPXClientInstrumentor().instrument(tracer_provider=self.provider)

    def observe(self, engine: AsyncEngine, app: FastAPI | None = None) -> None:
        """Record the engine's statements and the application's requests. Call it before serving."""
        tracer = self.provider.get_tracer(INSTRUMENTATION)
        observe_statements(engine.sync_engine, tracer)
        if app is not None:
            app.add_middleware(RequestSpans, tracer=tracer)

    async def stop(self) -> None:
        """Send the remaining spans within FLUSH_SECONDS; later ones are lost."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self.provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), FLUSH_SECONDS)
        except TimeoutError:
            log.warning("traces_not_flushed", seconds=FLUSH_SECONDS)


class RootSampler(Sampler):
    """Sampler of root spans: requests, runs and spans of handlers, with the given ratio.

    Statements and calls of background loops start no trace: they would be most of all traces.
    """

    def __init__(self, ratio: Sampler) -> None:
        self._ratio = ratio

    def should_sample(  # noqa: PLR0913, PLR0917 - the SDK's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See `Sampler`."""
        if kind is SpanKind.CLIENT:
            return SamplingResult(Decision.DROP)
        return self._ratio.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """See `Sampler`."""
        return f"RootSampler({self._ratio.get_description()})"


class WatchedExporter(SpanExporter):
    """An exporter that logs each outage of its collector once, and counts lost spans."""

    def __init__(self, exporter: SpanExporter, settings: Settings) -> None:
        self._exporter, self._where = exporter, settings.otel_exporter_endpoint
        self._taken = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        result = self._exporter.export(spans)
        taken = result is SpanExportResult.SUCCESS
        if not taken:
            SPANS_LOST.inc(len(spans))
        if taken and not self._taken:
            log.info("traces_exported_again", endpoint=self._where)
        elif self._taken and not taken:
            log.warning(
                "traces_not_exported",
                endpoint=self._where,
                meaning="only traces are affected; logged once per outage",
            )
        self._taken = taken
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()


def exporter_of(settings: Settings) -> SpanExporter:
    """Return the configured exporter: OTLP/HTTP, or JSON lines on standard output."""
    if settings.otel_exporter == "console":
        return ConsoleSpanExporter(
            out=sys.stdout, formatter=lambda span: f"{span.to_json(indent=None)}\n"
        )
    base = settings.otel_exporter_endpoint.rstrip("/").removesuffix(TRACES_PATH)
    return OTLPSpanExporter(endpoint=base + TRACES_PATH, timeout=EXPORT_SECONDS)


def resource_of(settings: Settings) -> Resource:
    """Return the attributes of the process. OTEL_RESOURCE_ATTRIBUTES can add others."""
    attributes: dict[str, Any] = {
        "service.name": settings.otel_service_name or settings.app_name,
        "service.version": settings.version,
        "deployment.environment.name": settings.environment,
        "host.name": settings.host_name,
        "process.pid": os.getpid(),
        "k8s.pod.name": settings.pod_name,
        "k8s.pod.uid": settings.pod_uid,
        "k8s.namespace.name": settings.pod_namespace,
        "k8s.node.name": settings.node_name,
        "k8s.container.name": settings.container_name,
    }
    return Resource.create({name: value for name, value in attributes.items() if value is not None})
