"""Errors as RFC 9457 problem+json: the one place where a code becomes an HTTP status."""

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
"""The code of refusals that have only an HTTP status."""

MISSING = "Field required"
"""The validator's message about a field that is not there."""
PARAMETER = re.compile(r"\{[^}]*\}")
NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
FULL = asyncpg.InsufficientResourcesError
TOO_SLOW = (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError)


class FieldProblem(BaseModel):
    """One field that breaks its rule."""

    field: str = Field(description="The field as the request wrote it; `tags.2` is the third tag.")
    message: str


class Problem(BaseModel):
    """An error (RFC 9457). Programs look at `code`; people read `detail`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:task-service:problem:not_found"])
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    errors: list[FieldProblem] | None = Field(
        default=None, description="With code `invalid_field`: which fields, and why."
    )
    allowed: list[str] | None = Field(
        default=None, description="With a 409: the statuses that the task may change to."
    )


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:
    """Make an answer of problem+json; the request id comes from the log context."""
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
    """The answer to an error that a caller may hear of; None for a fault of ours."""
    if isinstance(error, DomainError):
        headers = _headers_of(error)
        return problem(
            STATUSES[error.code], error.code, error.message, headers=headers, extra=error.extra
        )
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, TOO_SLOW):
        return _away("The database took too long to answer; try again.")
    if isinstance(cause, NOT_MIGRATED):
        return _away(
            "The database lacks tables of this version; it is being migrated, or task-service migrate must run."
        )
    if isinstance(cause, FULL):
        return _away("The database has no room, memory or connections left; try again.")
    if is_unavailable(error):
        return _away("The database cannot be reached at the moment; try again.")
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


def _away(detail: str) -> Response:
    return problem(503, "unavailable", detail, headers={"Retry-After": RETRY_AFTER_SECONDS})


def field_name(location: Sequence[int | str]) -> str:
    """The field as the caller wrote it, from the validator's location.

    >>> field_name(("body", "tags", 2)), field_name(("query", "sort")), field_name(("body",))
    ('tags.2', 'sort', 'body')
    """
    return ".".join(str(part) for part in (location[1:] or location))


MOST_PROBLEMS = 1_000
"""So many are told at once."""


def field_problems(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Turn a validator's errors into fields and messages; the input itself is not repeated."""
    found: dict[str, str] = {}
    for error in errors[:MOST_PROBLEMS]:
        message = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = (
                "there is no such field here"
                if error["loc"][0] == "body"
                else "there is no such parameter here"
            )
        found.setdefault(field_name(error["loc"]), message)
    return [{"field": field, "message": message} for field, message in found.items()]


def _has_json(request: Request) -> bool:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    )


def _has_form(request: Request) -> bool:
    """Its body is read already, field by field, and cannot be read again."""
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
        detail = f"There is nothing at {request.url.path}."
    elif error.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"{request.method} is not possible here; allowed: {headers['Allow']}."
    elif error.status_code == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return problem(error.status_code, code, detail, headers=headers)


def allowed_methods(request: Request) -> list[str]:
    """Every method that some route of the app takes at the request's path.

    Of `tasks/{id}` and `tasks/{id}:cancel`, which both match the latter's paths, the one that says more is meant.
    """
    routes = [route for router in request.app.state.routers for route in router.routes]
    found = [
        (len(PARAMETER.sub("", r.path)), r)
        for r in routes
        if r.matches(request.scope)[0] is not Match.NONE
    ]
    most = max((said for said, _ in found), default=0)
    return sorted(
        {method for said, route in found if said == most for method in route.methods or ()}
    )


def install_problems(app: FastAPI) -> None:
    """Let the app answer every refusal with problem+json."""
    app.add_exception_handler(DomainError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that an operation may answer, besides those that every one may."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        s: {"description": HTTPStatus(s).phrase, "content": content}
        for s in (*statuses, 401, 403, 422, 429, 503)
    }
