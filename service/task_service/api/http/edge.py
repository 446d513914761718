"""The outermost layer of both ports: request id, time, body limit, draining, and the answer to errors nobody caught."""

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
FAULT = "Something went wrong here; the log has it under the request id."
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own, off: `telemetry` does it."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware of an app whose state has `draining`; plain ASGI, because it is in the way of every request."""

    def __init__(
        self,
        app: ASGIApp,
        max_body_bytes: int,
        larger: Mapping[str, int] | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """`larger` has the limits of the paths that take more; `debug` tells callers the text of faults."""
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
                    answered = time.perf_counter()  # it lasts for as long as the client likes
                if scope["app"].state.draining:
                    out["connection"] = "close"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, self._limited(scope["path"], headers, receive), answer)
            except Exception as error:
                if started:  # a stream broke off: the connection must show it
                    log.exception("answer_broken_off", path=scope["path"])
                    raise
                await self._apologise(error, scope, receive, answer)
            finally:
                method = scope["method"] if scope["method"] in METHODS else "other"
                REQUEST_SECONDS.labels(route_of(scope), method, str(status)).observe(
                    (answered or time.perf_counter()) - begun
                )

    async def _apologise(
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
        """Refuse a body over the limit: at once when its length is announced, else at the first byte too many."""
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
    return HTTPException(413, f"The body is over the limit of {most} bytes.")


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The route's template, so that metrics have few labels; `none` for paths that no route has."""
    return getattr(scope.get("route"), "path", None) or "none"
