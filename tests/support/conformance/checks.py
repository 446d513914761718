"""Requests and checks of responses that several suites share."""

import json
from typing import Any

import httpx

UNICODE = [
    "Ünïcödé",
    "日本語のタイトル",
    "שלום עולם",
    "👩‍👩‍👧‍👦 family",
    "e\u0301 and é",
    "zero\u200bwidth",
    "right\u202eto left",
    "ﷺ",
    "\U0010ffff",
    "tab\tand\nline",
    "'; DROP TABLE tasks; --",
    "<script>alert(1)</script>",
    "%s %d {0} {{x}} ${y}",
    "\\u0000 as text",
]
"""Titles from many scripts, with control characters and text that looks like code."""
CREATE_PATHS = ("/api/v1/tasks", "/compat/e/tasks")
"""Paths that accept all fields of a task."""
UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the response is a problem (RFC 9457) with this status and code, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]
    return problem


def check_d_error(response: httpx.Response, status: int, text: str | None = None) -> str:
    """Assert that the response is an error in the format of service D; return its text."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = str(response.json()["error"])
    assert error == text if text else error
    return error


def check_json(response: httpx.Response, status: int = 200) -> Any:
    """Assert that the response has this status; return its JSON."""
    assert response.status_code == status, response.text
    if status == 204:
        assert response.content == b""
        return None
    assert response.headers["content-type"] == "application/json"
    return response.json()


def check_named_field(response: httpx.Response, field: str) -> None:
    """Assert that the response is a 422 whose text starts with the field, in either format."""
    assert response.status_code == 422, response.text
    body = response.json()
    text = body["error"] if "error" in body else body["detail"]
    assert text.startswith(f"{field}: "), response.text


def create_task(client: httpx.Client, path: str = CREATE_PATHS[0], **fields: Any) -> httpx.Response:
    """Request the creation of a task. The body is ASCII, which can express lone surrogates."""
    return post_text(client, path, json.dumps({"title": "a"} | fields))


def post_text(client: httpx.Client, path: str, body: str) -> httpx.Response:
    """Send this text as JSON, unchanged."""
    return client.post(path, content=body, headers={"Content-Type": "application/json"})
