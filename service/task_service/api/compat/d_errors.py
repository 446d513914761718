"""Service D's error format, `{"error": "Field 'title' is required"}`, for its paths only."""

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from task_service.api.http.problems import MEDIA_TYPE, MISSING


class ErrorD(BaseModel):
    """An error in service D's format."""

    error: str = Field(examples=["Field 'title' is required"])


def documented_d(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error responses of an operation of D for OpenAPI.

    Adds the errors that every operation may return.
    """
    every = (400, 401, 403, 422, 429, 503)
    return {s: {"description": HTTPStatus(s).phrase, "model": ErrorD} for s in (*statuses, *every)}


def to_error_d(status: int, problem: Mapping[str, Any]) -> tuple[int, str]:
    """Convert a problem to D's status and message.

    A missing field is a 400 in D, and takes precedence over other errors.

    >>> missing = {"field": "title", "message": "Field required"}
    >>> to_error_d(422, {"detail": "x", "errors": [missing]})
    (400, "Field 'title' is required")
    >>> to_error_d(404, {"detail": "There is no task 7."})
    (404, 'There is no task 7.')
    """
    for error in problem.get("errors") or ():
        if error["message"] == MISSING:
            return 400, f"Field '{error['field']}' is required"
    return status, str(problem["detail"])


class ErrorFormatD:
    """Outermost ASGI middleware that converts every problem on D's paths to D's format."""

    def __init__(self, app: ASGIApp, prefixes: Collection[str]) -> None:
        self.app = app
        self.prefixes = tuple(prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_path_of_d = scope["type"] == "http" and f"{scope['path']}/".startswith(self.prefixes)
        await self.app(scope, receive, ErrorConverter(send) if is_path_of_d else send)


class ErrorConverter:
    """ASGI `send` of one response: it buffers a problem until it is complete and converts it.

    Other responses pass unchanged.
    """

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Pass a message on or buffer it."""
        if message["type"] == "http.response.start":
            if MutableHeaders(scope=message).get("content-type") == MEDIA_TYPE:
                self.start = message
                return
        elif self.start is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                await self._convert(self.start)
            return
        await self.send(message)

    async def _convert(self, start: Message) -> None:
        start["status"], message = to_error_d(start["status"], orjson.loads(self.body))
        content = orjson.dumps({"error": message})
        headers = MutableHeaders(scope=start)
        headers["content-type"], headers["content-length"] = "application/json", str(len(content))
        await self.send(start)
        await self.send({"type": "http.response.body", "body": content})
