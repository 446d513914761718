"""Helpers for OpenTelemetry traces, for the product and for handlers.

Unless OTEL_ENABLED is set, every function reads a context variable and does nothing, and neither
the SDK nor an instrumentation is imported. `telemetry.sdk` sets up traces when they are on.

    from task_service.telemetry import add_span_attributes, traced_operation

    @traced_operation("resize picture")
    async def resize(name: str) -> None:
        add_span_attributes(picture=name)
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

INSTRUMENTATION = "task_service"
STATEMENT_MAX = 1000
F = TypeVar("F", bound=Callable[..., Any])
_traceparent = TraceContextTextMapPropagator()


def get_tracer(name: str = INSTRUMENTATION) -> Tracer:
    """Return the tracer with this name, for manual spans.

    >>> with get_tracer().start_as_current_span("count pictures") as span:
    ...     span.set_attribute("pictures", 3)
    """
    return trace.get_tracer(name)


def add_span_attributes(attributes: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    """Add attributes to the current span. Values of other types become text.

    >>> add_span_attributes({"picture.width": 640}, picture="cat.png")
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes(attributes_of(attributes, more))


def add_span_event(name: str, attributes: Mapping[str, Any] | None = None, /, **more: Any) -> None:
    """Add an event to the current span.

    >>> add_span_event("picture.skipped", reason="too small")
    """
    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(name, attributes_of(attributes, more))


def set_span_error(error: BaseException | str) -> None:
    """Mark the current span as failed. An exception is recorded with its traceback.

    >>> set_span_error("picture not found")
    """
    span = trace.get_current_span()
    if not span.is_recording():
        return
    if isinstance(error, BaseException):
        span.record_exception(error)
        error = f"{type(error).__name__}: {error}"
    span.set_status(StatusCode.ERROR, error)


class traced_operation:  # noqa: N801 - used as a decorator and as a `with` statement's function
    """A span around a function, coroutine function or block. An exception marks it as failed.

    >>> @traced_operation("add", {"kind": "example"})
    ... def add(a: int, b: int) -> int:
    ...     return a + b
    >>> add(1, 2)
    3
    >>> with traced_operation("wait") as span:
    ...     span.set_attribute("seconds", 1)
    """

    def __init__(
        self, name: str, attributes: Mapping[str, Any] | None = None, /, **more: Any
    ) -> None:
        self._name, self._attributes = name, attributes_of(attributes, more)
        self._open: AbstractContextManager[Span] | None = None

    def __enter__(self) -> Span:
        self._open = get_tracer().start_as_current_span(self._name, attributes=self._attributes)
        return self._open.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open is not None:
            self._open.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """Decorate a function: each call has its own span."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced(*args: Any, **kwargs: Any) -> Any:
                with traced_operation(self._name, self._attributes):
                    return await function(*args, **kwargs)

            return traced  # type: ignore[return-value]

        @functools.wraps(function)
        def traced_plain(*args: Any, **kwargs: Any) -> Any:
            with traced_operation(self._name, self._attributes):
                return function(*args, **kwargs)

        return traced_plain  # type: ignore[return-value]


def statement_attributes(sql: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the attributes of a statement's span. Long text is truncated.

    >>> name, attributes = statement_attributes("SELECT 1")
    >>> name, attributes["db.query.text"]
    ('SELECT', 'SELECT 1')
    """
    name = sql[:20].split(None, 1)[0].upper() if sql.strip() else "SQL"
    return name, {
        "db.system.name": "postgresql",
        "db.operation.name": name,
        "db.query.text": sql[:STATEMENT_MAX],
    }


@contextlib.contextmanager
def traced_statement(sql: str) -> Iterator[None]:
    """Wrap a statement sent directly to the driver in a span, if a span is being recorded."""
    if not trace.get_current_span().is_recording():
        yield
        return
    name, attributes = statement_attributes(sql)
    with get_tracer().start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes):
        yield


def attributes_of(*given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Convert attributes to OpenTelemetry's types: numbers, booleans and text. None is omitted.

    >>> attributes_of({"a": 1, "b": None}, {"when": datetime(2030, 1, 2), "tags": ("x", 1)})
    {'a': 1, 'when': '2030-01-02T00:00:00', 'tags': "('x', 1)"}
    """
    together = {name: value for attributes in given for name, value in (attributes or {}).items()}
    return {name: _plain(value) for name, value in together.items() if value is not None}


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return _plain(value.value)
        case bool() | int() | float() | str():
            return value
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case list() | tuple() if all(isinstance(v, str) for v in value):
            return list(value)
        case _:
            return str(value)


def current_trace_context() -> str | None:
    """Return the W3C `traceparent` of the current span; None without one.

    >>> current_trace_context() is None
    True
    """
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def context_of(traceparent: str | None) -> Context:
    """Return a context that continues this trace. None or an invalid value starts a new trace.

    >>> context = context_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    >>> f"{trace.get_current_span(context).get_span_context().trace_id:x}"
    'af7651916cd43dd8448eb211c80319c'
    >>> context_of("invalid")
    {}
    """
    return (
        _traceparent.extract({"traceparent": traceparent}, context=Context())
        if traceparent
        else Context()
    )
