"""What the suites check of an answer."""

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
"""Text of every kind that a title may be."""
PATHS = ("/api/v1/tasks", "/compat/e/tasks")
"""Paths that take all fields of a task."""
NOT_THERE = "00000000-0000-7000-8000-000000000000"


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem (RFC 9457) that this answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]
    return problem


def is_error(answer: httpx.Response, status: int, words: str | None = None) -> str:
    """The error in service D's words that this answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    error = str(answer.json()["error"])
    assert error == words if words else error
    return error


def json_of(answer: httpx.Response, status: int = 200) -> Any:
    """The JSON of an answer with this status."""
    assert answer.status_code == status, answer.text
    if status == 204:
        assert answer.content == b""
        return None
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def send(client: httpx.Client, path: str = PATHS[0], **fields: Any) -> httpx.Response:
    """Create a task of these fields; JSON in ASCII can say what UTF-8 cannot."""
    return post_text(client, path, json.dumps({"title": "a"} | fields))


def post_text(client: httpx.Client, path: str, body: str) -> httpx.Response:
    """Send JSON as it is written."""
    return client.post(path, content=body, headers={"Content-Type": "application/json"})
