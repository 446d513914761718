"""The outermost layer of both ports: request id, time, body limit, draining, and the answer to errors nobody caught."""

import re
import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from task_service.api.metrics import REQUEST_FAULTS, REQUEST_SECONDS
from task_service.api.problems import answer_of, problem

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware of an app whose state has `draining`; plain ASGI, because it is in the way of every request."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        begun, status = time.perf_counter(), 500
        started = False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                out = MutableHeaders(scope=message)
                out["x-request-id"] = request_id
                if scope["app"].state.draining:
                    out["connection"] = "close"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, self._limited(headers, receive), answer)
            except Exception as error:
                if started:  # a stream broke off: the connection must show it
                    log.exception("answer_broken_off", path=scope["path"])
                    raise
                await self._apologise(error, scope, receive, answer)
            finally:
                method = scope["method"] if scope["method"] in METHODS else "other"
                REQUEST_SECONDS.labels(route_of(scope), method, str(status)).observe(time.perf_counter() - begun)

    async def _apologise(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        answer = answer_of(error)
        if answer is None:
            REQUEST_FAULTS.labels(route_of(scope)).inc()
            log.error("request_failed", path=scope["path"], exc_info=error)
            answer = problem(500, "internal", "Something went wrong here; the log has it under the request id.")
        elif answer.status_code == 503:
            log.warning("request_unavailable", path=scope["path"], error=type(error).__name__)
        await answer(scope, receive, send)

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """Refuse a body over the limit: at once when its length is announced, else at the first byte too many."""
        left = self.max_body_bytes
        announced = headers.get("content-length", "0")
        too_large = announced.isdigit() and int(announced) > left

        async def limited() -> Message:
            nonlocal left
            if too_large:
                raise self._too_large()
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body is over the limit of {self.max_body_bytes} bytes.")


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The route's template, so that metrics have few labels; `none` for paths that no route has."""
    return getattr(scope.get("route"), "path", None) or "none"
