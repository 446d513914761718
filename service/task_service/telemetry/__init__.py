"""Logs, metrics and traces. The names below are for handlers that annotate their spans."""

from task_service.telemetry.helpers import (
    add_span_attributes,
    add_span_event,
    get_tracer,
    set_span_error,
    traced_operation,
)

__all__ = [
    "add_span_attributes",
    "add_span_event",
    "get_tracer",
    "set_span_error",
    "traced_operation",
]
