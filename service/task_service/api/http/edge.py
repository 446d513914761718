"""The outermost middleware of both ports.

It sets the request id, measures the request, limits the body, closes connections while the process
drains, and answers exceptions that nothing else handled.
"""

import re
import time
from collections.abc import Mapping, MutableMapping
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from task_service.api.http.metrics import REQUEST_FAULTS, REQUEST_SECONDS
from task_service.api.http.problems import answer_of, problem

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
FAULT = "Internal error. The log contains the details under the request id."
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}
"""Disables FastAPI's own telemetry; `task_service.telemetry` replaces it."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware for an app whose state has `draining`.

    It is plain ASGI because it runs for every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        larger: Mapping[str, int] | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """Set the limits.

        `larger` maps paths that accept larger bodies to their limits. With `debug`, responses to
        unexpected errors contain the text of the exception.
        """
        self.app = app
        self.debug = debug
        self.max_body_bytes = max_body_bytes
        self.larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        begun, status = time.perf_counter(), 500
        started, answered = False, 0.0

        async def answer(message: Message) -> None:
            nonlocal status, started, answered
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                out = MutableHeaders(scope=message)
                out["x-request-id"] = request_id
                if out.get("content-type", "").startswith("text/event-stream"):
                    answered = time.perf_counter()  # a stream lasts until the client leaves
                if scope["app"].state.draining:
                    out["connection"] = "close"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, self._limited(scope["path"], headers, receive), answer)
            except Exception as error:
                if started:  # the response has begun: only an aborted connection shows the error
                    log.exception("response_aborted", path=scope["path"])
                    raise
                await self._answer_error(error, scope, receive, answer)
            finally:
                method = scope["method"] if scope["method"] in METHODS else "other"
                REQUEST_SECONDS.labels(route_of(scope), method, str(status)).observe(
                    (answered or time.perf_counter()) - begun
                )

    async def _answer_error(
        self, error: Exception, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = answer_of(error)
        if answer is None:
            REQUEST_FAULTS.labels(route_of(scope)).inc()
            log.error("request_failed", path=scope["path"], exc_info=error)
            detail = f"{type(error).__name__}: {error}" if self.debug else FAULT
            answer = problem(500, "internal", detail)
        elif answer.status_code == 503:
            log.warning("request_unavailable", path=scope["path"], error=type(error).__name__)
        await answer(scope, receive, send)

    def _limited(self, path: str, headers: Headers, receive: Receive) -> Receive:
        """Reject a body over the limit.

        A declared length is checked at once, a body without one when it exceeds the limit.
        """
        most = left = self.larger.get(path, self.max_body_bytes)
        announced = headers.get("content-length", "0")
        too_large = announced.isdigit() and int(announced) > left

        async def limited() -> Message:
            nonlocal left
            if too_large:
                raise _too_large(most)
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _too_large(most)
            return message

        return limited


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"The body exceeds the limit of {most} bytes.")


def route_of(scope: MutableMapping[str, Any]) -> str:
    """Return the route's template, which keeps metric labels few, or `none` without a route."""
    return getattr(scope.get("route"), "path", None) or "none"
