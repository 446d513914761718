"""Spans of requests and of SQLAlchemy statements.

OpenTelemetry's own instrumentations support any framework and driver, at three times the cost: they
took as much time as the rest of a request. Names and attributes follow its semantic conventions.
"""

from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import event
from sqlalchemy.engine import Engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from task_service.telemetry.helpers import statement_attributes

METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
CARRIED = {b"traceparent": "traceparent", b"tracestate": "tracestate"}
_propagator = TraceContextTextMapPropagator()


class RequestSpans:
    """ASGI middleware that records a span per request. It continues the caller's trace."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self.app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        span = self._tracer.start_span(
            method, _parent_context(scope), SpanKind.SERVER, _request_attributes(scope, method)
        )

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start" and span.is_recording():
                _record_response(span, scope, method, message)
            await send(message)

        token = contexts.attach(trace.set_span_in_context(span, Context()))
        try:
            await self.app(scope, receive, send_recorded)
        except Exception as error:
            span.record_exception(error)
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            contexts.detach(token)
            span.end()


def _parent_context(scope: Scope) -> Context:
    """Return the context of the caller's trace, or an empty one, which starts a trace."""
    carrier = {
        CARRIED[name]: value.decode("latin-1")
        for name, value in scope["headers"]
        if name in CARRIED
    }
    return _propagator.extract(carrier, Context()) if carrier else Context()


def _request_attributes(scope: Scope, method: str) -> dict[str, Any]:
    found = {
        "http.request.method": method,
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    for name, key in (("client", "client.address"), ("server", "server.address")):
        if scope.get(name):
            found[key] = scope[name][0]
    for header, value in scope["headers"]:
        if header == b"user-agent":
            found["user_agent.original"] = value.decode("latin-1")
    return found


def _record_response(span: Span, scope: Scope, method: str, message: Message) -> None:
    """Set the attributes that are known when the response begins."""
    route = getattr(scope.get("route"), "path", None)
    found: dict[str, Any] = {"http.response.status_code": message["status"]}
    if route:
        span.update_name(f"{method} {route}")
        found["http.route"] = route
    for name, value in message.get("headers", ()):
        if name.lower() == b"x-request-id":
            found["http.request_id"] = value.decode("latin-1")
    if message["status"] >= 500:
        found["error.type"] = str(message["status"])
        span.set_status(StatusCode.ERROR)
    span.set_attributes(found)


def observe_statements(engine: Engine, tracer: Tracer) -> None:
    """Record a span per statement of this engine within recorded spans, without parameters."""

    def begin(_: Any, __: Any, statement: str, ___: Any, execution: Any, ____: Any) -> None:
        if execution is not None and trace.get_current_span().is_recording():
            name, attributes = statement_attributes(statement)
            execution.task_service_span = tracer.start_span(name, None, SpanKind.CLIENT, attributes)

    def end(_: Any, __: Any, ___: str, ____: Any, execution: Any, _____: Any) -> None:
        span = getattr(execution, "task_service_span", None)
        if span is not None:
            span.end()

    def fail(failure: Any) -> None:
        span = getattr(failure.execution_context, "task_service_span", None)
        if span is not None:
            span.set_status(StatusCode.ERROR, type(failure.original_exception).__name__)
            span.end()

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine, "handle_error", fail)
