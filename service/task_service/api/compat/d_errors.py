"""Service D's words for errors: `{"error": "Field 'title' is required"}`, on its paths only."""

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from task_service.api.http.problems import MEDIA_TYPE, MISSING


class ErrorD(BaseModel):
    """An error in service D's words."""

    error: str = Field(examples=["Field 'title' is required"])


def documented_d(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the errors that an operation of D may answer, besides those that every one may."""
    every = (400, 401, 403, 422, 429, 503)
    return {s: {"description": HTTPStatus(s).phrase, "model": ErrorD} for s in (*statuses, *every)}


def in_words_of_d(status: int, problem: Mapping[str, Any]) -> tuple[int, str]:
    """The status and the words of a problem: a field that is missing is a bad request here, and said first.

    >>> in_words_of_d(422, {"detail": "x", "errors": [{"field": "title", "message": "Field required"}]})
    (400, "Field 'title' is required")
    >>> in_words_of_d(404, {"detail": "There is no task 7."})
    (404, 'There is no task 7.')
    """
    for error in problem.get("errors") or ():
        if error["message"] == MISSING:
            return 400, f"Field '{error['field']}' is required"
    return status, str(problem["detail"])


class WordsOfD:
    """The outermost ASGI layer: problems on D's paths, wherever they arise, leave in D's words."""

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self.app = app
        self.paths = tuple(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_ours = scope["type"] == "http" and f"{scope['path']}/".startswith(self.paths)
        await self.app(scope, receive, Translation(send) if is_ours else send)


class Translation:
    """The way out of one answer: a problem is held back until it is complete, everything else passes."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Message | None = None
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Send a message on, or keep it."""
        if message["type"] == "http.response.start":
            if MutableHeaders(scope=message).get("content-type") == MEDIA_TYPE:
                self.start = message
                return
        elif self.start is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                await self._translate(self.start)
            return
        await self.send(message)

    async def _translate(self, start: Message) -> None:
        start["status"], words = in_words_of_d(start["status"], orjson.loads(self.body))
        content = orjson.dumps({"error": words})
        headers = MutableHeaders(scope=start)
        headers["content-type"], headers["content-length"] = "application/json", str(len(content))
        await self.send(start)
        await self.send({"type": "http.response.body", "body": content})
