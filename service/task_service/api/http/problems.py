"""Errors as RFC 9457 problem+json. This module alone maps codes to HTTP statuses."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import asyncpg
import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from task_service.api.http.bodies import UNREADABLE, unreadable
from task_service.domain.errors import DomainError
from task_service.store.database import is_unavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "1"

STATUSES = {
    "not_found": 404,
    "invalid_field": 422,
    "invalid_file": 422,
    "invalid_transition": 409,
    "held_by_worker": 409,
    "stale_version": 412,
    "unavailable": 503,
    "internal_closed": 403,
    "unauthorized": 401,
    "invalid_token": 401,
    "forbidden": 403,
    "idempotency_conflict": 422,
    "too_many_requests": 429,
    "conflict": 409,
}
"""The HTTP status of each code of a DomainError."""

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}
"""The code of errors that have only an HTTP status."""

MISSING = "Field required"
"""The validator's message for a missing field."""
PARAMETER = re.compile(r"\{[^}]*\}")
NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
FULL = asyncpg.InsufficientResourcesError
TOO_SLOW = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError)


class FieldProblem(BaseModel):
    """An invalid field."""

    field: str = Field(description="Path of the field in the request; `tags.2` is the third tag.")
    message: str


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable and meant for programs, `detail` for people."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:task-service:problem:not_found"])
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    errors: list[FieldProblem] | None = Field(
        default=None,
        description="Present with code `invalid_field`: each invalid field and the reason.",
    )
    allowed: list[str] | None = Field(
        default=None,
        description="Present with status 409: the statuses that the task may change to.",
    )


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """Build a problem+json response. The request id comes from the log context."""
    content = {
        "type": f"urn:task-service:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": structlog.contextvars.get_contextvars().get("request_id"),
        **(extra or {}),
    }
    return Response(orjson.dumps(content), status, headers=headers, media_type=MEDIA_TYPE)


def answer_of(error: BaseException) -> Response | None:
    """Return the response for an expected error; None for an internal one."""
    if isinstance(error, DomainError):
        headers = _headers_of(error)
        return problem(
            STATUSES[error.code], error.code, error.message, headers=headers, extra=error.extra
        )
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, TOO_SLOW):
        return _unavailable("The database took too long to answer; try again.")
    if isinstance(cause, NOT_MIGRATED):
        return _unavailable(
            "The database schema is older than this version. "
            "Wait for the migration to finish, or run task-service migrate."
        )
    if isinstance(cause, FULL):
        return _unavailable(
            "The database has no disk space, memory or connections left; try again."
        )
    if is_unavailable(error):
        return _unavailable("The database is unreachable; try again.")
    return None


def _headers_of(error: DomainError) -> dict[str, str]:
    match error.code:
        case "unavailable":
            return {"Retry-After": RETRY_AFTER_SECONDS}
        case "too_many_requests":
            return {"Retry-After": str(error.extra["retry_after_seconds"])}
        case "unauthorized":
            return {"WWW-Authenticate": "Bearer"}
        case "invalid_token":
            return {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return {}


def _unavailable(detail: str) -> Response:
    return problem(503, "unavailable", detail, headers={"Retry-After": RETRY_AFTER_SECONDS})


def field_name(location: Sequence[int | str]) -> str:
    """Return the field's path in the request from the validator's location.

    >>> field_name(("body", "tags", 2)), field_name(("query", "sort")), field_name(("body",))
    ('tags.2', 'sort', 'body')
    """
    return ".".join(str(part) for part in (location[1:] or location))


MAX_PROBLEMS = 1_000
"""Maximum number of invalid fields in one response."""


def field_problems(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Convert a validator's errors to fields and messages, without the input values."""
    found: dict[str, str] = {}
    for error in errors[:MAX_PROBLEMS]:
        message = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = "unknown field" if error["loc"][0] == "body" else "unknown parameter"
        found.setdefault(field_name(error["loc"]), message)
    return [{"field": field, "message": message} for field, message in found.items()]


def _has_json(request: Request) -> bool:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    )


def _has_form(request: Request) -> bool:
    """Return whether the body is a form, which has been consumed and cannot be read again."""
    return (
        request.headers.get("content-type", "")
        .strip()
        .lower()
        .startswith(("multipart/", "application/x-www-form"))
    )


async def _on_domain_error(_: Request, error: Exception) -> Response:
    answer = answer_of(error)
    if answer is None:
        raise error
    return answer


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = error.errors()
    if any(e["type"] == "json_invalid" for e in errors):
        return problem(
            400,
            "broken_json",
            f"The body is not JSON: {errors[0]['ctx']['error']} (at {errors[0]['loc'][-1]}).",
        )
    whole_body = any(tuple(e["loc"]) == ("body",) for e in errors)
    if whole_body and error.body and not _has_json(request):
        return problem(
            415,
            "unsupported_media_type",
            "Send the body as JSON, with Content-Type: application/json.",
        )
    fields = field_problems(errors)
    detail = "; ".join(f"{f['field']}: {f['message']}" for f in fields[:5])
    return problem(422, "invalid_field", detail, extra={"errors": fields})


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if (
        error.status_code == 400
        and isinstance(error.__cause__, UNREADABLE)
        and not _has_form(request)
    ):
        return await _on_invalid(request, unreadable(error.__cause__, await request.body()))
    code, headers = CODES.get(error.status_code, "error"), dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"There is no resource at {request.url.path}."
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"The method {request.method} is not allowed here; use {headers['Allow']}."
    elif error.status_code == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return problem(error.status_code, code, detail, headers=headers)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods that the app's routes accept at the request's path.

    `tasks/{id}` also matches the paths of `tasks/{id}:cancel`; the more specific route counts.
    """
    routes = [route for router in request.app.state.routers for route in router.routes]
    found = [
        (len(PARAMETER.sub("", r.path)), r)
        for r in routes
        if r.matches(request.scope)[0] is not Match.NONE
    ]
    longest = max((length for length, _ in found), default=0)
    return sorted(
        {method for length, route in found if length == longest for method in route.methods or ()}
    )


def install_problems(app: FastAPI) -> None:
    """Make the app answer every error with problem+json."""
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe an operation's problems for OpenAPI, including those of every operation."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        s: {"description": HTTPStatus(s).phrase, "content": content}
        for s in (*statuses, 401, 403, 422, 429, 503)
    }
