"""Spans of this process, kept in memory: OpenTelemetry takes one provider a process, so all tests
share this one.
"""

from functools import cache

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@cache
def span_memory() -> InMemorySpanExporter:
    """What has been recorded; `clear` it at a test's beginning."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    return memory


def ended(name: str) -> list[ReadableSpan]:
    """The spans with this name that have ended, in the order of their ends."""
    return [span for span in span_memory().get_finished_spans() if span.name == name]
