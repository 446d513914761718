"""Settings and login for processes of the API that require authentication."""

from typing import Any

import httpx

from tests.support.api_process import ApiProcess
from tests.support.secured_app import KEY, PASSWORD

LOGIN = "/api/v1/auth/token"
ADMIN = {"username": "root", "password": PASSWORD}


def secured_settings(database: str, **overrides: Any) -> dict[str, Any]:
    """Return settings with AUTH_MODE=required and a first administrator."""
    defaults: dict[str, Any] = {
        "database_url": database,
        "secret_key": KEY,
        "auth_mode": "required",
        "admin_username": ADMIN["username"],
        "admin_password": ADMIN["password"],
    }
    return defaults | overrides


def log_in_admin(process: ApiProcess) -> dict[str, Any]:
    """Return tokens of the first administrator, who exists once the process is ready."""
    response = httpx.post(process.url + LOGIN, data=ADMIN)
    assert response.status_code == 200, response.text
    tokens: dict[str, Any] = response.json()
    return tokens
