"""Settings with which the API refuses to start, and the errors that explain why."""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog

from task_service.api.auth.first_admin import StartRefusedError, refuse_bad_start
from task_service.cli import main
from task_service.settings import Settings, load_settings
from task_service.telemetry.logs import configure_logs
from tests.support.api_process import api_processes, environment_of
from tests.support.forked import run_forked
from tests.support.secured_app import KEY, PASSWORD

COMMAND = "Generate one with: openssl rand -base64 48"
TUTORIAL = "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"
ADMIN = {"admin_username": "root", "admin_password": PASSWORD}
NOWHERE = "postgresql://ada@127.0.0.1:1/x"
LEVELS = ["debug", "info", "warning", "error"]
Values = dict[str, Any]


def reasons(**values: Any) -> list[str]:
    """Return the lines of the error, or an empty list if the API may start."""
    settings = {"database_url": "postgresql://h/x"} | values
    try:
        refuse_bad_start(Settings(_env_file=None, **settings))  # type: ignore[call-arg]
    except StartRefusedError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        (None, "SECRET_KEY is missing"),
        ("", "SECRET_KEY is missing"),
        ("x7Gq", "SECRET_KEY is too weak: it has 4 characters; at least 32 are required"),
        (
            "changeme-changeme-changeme-changeme",
            "SECRET_KEY is too weak: it is a key from a public example",
        ),
        (
            "your-secret-key-of-at-least-32-chars",
            "SECRET_KEY is too weak: it is a key from a public",
        ),
        (TUTORIAL, "SECRET_KEY is too weak: it is a key from a public example"),
        (
            "abababababababababababababababababab",
            "SECRET_KEY is too weak: it repeats itself or follows a pattern",
        ),
        (
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "SECRET_KEY is too weak: it repeats itself or follows a pattern",
        ),
    ],
)
def test_weak_secret_is_rejected_when_tokens_are_required(
    environment: str, key: str | None, why: str
) -> None:
    [reason] = reasons(environment=environment, auth_mode="required", secret_key=key)
    assert reason.startswith(why)
    assert reason.endswith(COMMAND)
    assert not key or key not in reason


@pytest.mark.parametrize(
    ("content", "why"), [(None, "cannot be read"), ("\n \n", "is missing"), ("short", "too weak")]
)
def test_invalid_secret_file_error_names_the_file_setting(
    tmp_path: Path, content: str | None, why: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    [reason] = reasons(environment="production", secret_key_file=file, secret_key=KEY)
    assert reason.startswith("SECRET_KEY_FILE")
    assert why in reason


def test_one_weak_key_among_several_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\nold\n")
    [reason] = reasons(secret_key_file=file)
    assert "too weak" in reason


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"environment": "production", "debug": True}, "DEBUG"),
        ({"environment": "production", "auth_mode": "open"}, "AUTH_MODE=open"),
        (
            {"environment": "production", **ADMIN, "admin_password": "password1"},
            "ADMIN_PASSWORD is one of",
        ),
        ({**ADMIN, "admin_password": "short"}, "ADMIN_PASSWORD must have 8 to 128 characters"),
        (
            {**ADMIN, "admin_username": "root-of-all", "admin_password": "Root-Of-All"},
            "ADMIN_PASSWORD must not be the",
        ),
        (
            {**ADMIN, "admin_username": "system"},
            "ADMIN_USERNAME is a name that the service itself uses",
        ),
        ({**ADMIN, "admin_username": "a b"}, "ADMIN_USERNAME must be"),
        ({"admin_username": "root"}, "ADMIN_USERNAME and ADMIN_PASSWORD must be set together"),
        ({"admin_password": PASSWORD}, "ADMIN_USERNAME and ADMIN_PASSWORD must be set together"),
    ],
    ids=str,
)
def test_each_invalid_setting_is_rejected_by_name(values: Values, name: str) -> None:
    [reason] = reasons(**({"secret_key": KEY, "auth_mode": "required"} | values))
    assert reason.startswith(name)


@pytest.mark.parametrize(
    "values",
    [
        {"auth_mode": "open"},
        {"auth_mode": "open", "secret_key": "weak"},
        {"auth_mode": "open", "environment": "staging", "secret_key": KEY},
        {"environment": "production", "secret_key": KEY, **ADMIN},
        {"debug": True, "secret_key": KEY},
    ],
    ids=str,
)
def test_sufficient_settings_for_the_environment_are_accepted(values: Values) -> None:
    assert reasons(**values) == []


def start_api() -> None:
    """Run `task-service api`."""
    sys.argv = ["task-service", "api"]
    main()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (
            {
                "ENVIRONMENT": "production",
                "AUTH_MODE": "open",
                "DEBUG": "true",
                "ADMIN_USERNAME": "root",
                "ADMIN_PASSWORD": "changeme",
                "SECRET_KEY": "0123456789-test-0123456789",
            },
            ["DEBUG", "AUTH_MODE", "SECRET_KEY", "ADMIN_PASSWORD"],
        ),
        ({}, ["SECRET_KEY"]),  # authentication is required by default
        ({"SECRET_KEY": KEY, "RATE_LIMIT_READ": "many"}, ["RATE_LIMIT_READ"]),
        ({"SECRET_KEY": KEY, "CORS_ORIGINS": "app.example.com"}, ["CORS_ORIGINS"]),
        ({"SECRET_KEY": KEY, "TRUSTED_PROXIES": "proxy"}, ["TRUSTED_PROXIES"]),
        ({"SECRET_KEY": KEY, "ALGORITHM": "none"}, ["ALGORITHM"]),
        ({"SECRET_KEY": KEY, "AUTH_MODE": "off"}, ["AUTH_MODE"]),
    ],
    ids=["all at once", "nothing", "limit", "origin", "proxy", "algorithm", "mode"],
)
def test_process_exits_with_code_2_and_names_the_invalid_settings(
    tmp_path: Path, values: dict[str, str], names: list[str]
) -> None:
    environment = environment_of(
        tmp_path, {"DATABASE_URL": "postgresql://ada:horse7battery@127.0.0.1:1/x", **values}
    )
    ended = run_forked(start_api, environment, tmp_path)
    assert ended.code == 2, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "cannot start" not in line]
    assert [re.split("[: =]", line)[0] for line in lines] == names
    assert "horse7battery" not in ended.stderr
    assert values.get("SECRET_KEY", "-none-") not in ended.stderr


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_process_logs_which_of_two_database_addresses_it_uses() -> None:
    values = {
        "database_url": NOWHERE,
        "db_host": "elsewhere",
        "auth_mode": "open",
        "log_level": "WARNING",
    }
    with api_processes(1, "livez", **values) as [process]:
        lines = lines_of(process.log())
    meanings = [line["meaning"] for line in lines if line["event"] == "settings_contradict"]
    assert meanings == ["DATABASE_URL wins over DB_HOST"]
    assert {line["level"] for line in lines} == {"warning"}, (
        "LOG_LEVEL applies to the whole process"
    )


def log_at_every_level() -> None:
    """Configure logging from the environment, then log through structlog and logging."""
    configure_logs(load_settings())
    for level in LEVELS:
        getattr(structlog.get_logger(), level)("ours")
    for level in LEVELS:
        getattr(logging.getLogger("library"), level)("a library's")


@pytest.mark.parametrize(
    ("level", "seen"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)]
)
def test_log_level_applies_to_own_and_library_loggers(
    tmp_path: Path, level: str, seen: int
) -> None:
    environment = environment_of(tmp_path, {"LOG_LEVEL": level})
    ended = run_forked(log_at_every_level, environment, tmp_path)
    assert ended.code == 0
    logged = [(line["event"], line["level"]) for line in lines_of(ended.stderr)]
    assert logged == [
        (source, name) for source in ("ours", "a library's") for name in LEVELS[-seen:]
    ]
