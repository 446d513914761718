"""Checks of error responses: `application/problem+json` (RFC 9457)."""

from typing import Any

import httpx


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the response is a complete problem with this status and code, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return problem


def check_field_error(response: httpx.Response, field: str) -> str:
    """Assert that the response is a 422 for this field or a part of it; return the message."""
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["code"] == "invalid_field"
    messages = {e["field"]: e["message"] for e in problem["errors"]}
    for name, message in messages.items():
        if name == field or name.startswith(f"{field}."):
            return str(message)
    raise AssertionError(f"no error for the field {field}: {messages}")


def check_invalid_token(response: httpx.Response) -> str:
    """Assert that the response is a 401 for the token that was sent; return the detail."""
    problem = check_problem(response, 401, "invalid_token")
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    return str(problem["detail"])
