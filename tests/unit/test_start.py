"""What the API refuses to start with: each reason names its setting and what to do."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from task_service.api.auth.first_admin import StartRefusedError, refuse_bad_start
from task_service.settings import Settings
from tests.support.api_process import api_processes, environment_of
from tests.support.people import KEY, PASSWORD

MAKE = "Make one with: openssl rand -base64 48"
TUTORIAL = "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"
ADMIN = {"admin_username": "root", "admin_password": PASSWORD}
NOWHERE = "postgresql://ada@127.0.0.1:1/x"
LEVELS = ["debug", "info", "warning", "error"]
LOGS = f"""
import logging, structlog
from task_service.settings import load_settings
from task_service.telemetry.logs import configure_logs

configure_logs(load_settings())
for level in {LEVELS}:
    getattr(structlog.get_logger(), level)("ours")
for level in {LEVELS}:
    getattr(logging.getLogger("library"), level)("a library's")
"""
Given = dict[str, Any]


def settings_of(**given: Any) -> Settings:
    return Settings(_env_file=None, **({"database_url": "postgresql://h/x"} | given))


def reasons(**given: Any) -> list[str]:
    """The lines of the refusal; none when the API may start."""
    try:
        refuse_bad_start(settings_of(**given))
    except StartRefusedError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        (None, "SECRET_KEY is missing"),
        ("", "SECRET_KEY is missing"),
        ("x7Gq", "SECRET_KEY is too weak: it has 4 characters; it needs 32 at least"),
        (
            "changeme-changeme-changeme-changeme",
            "SECRET_KEY is too weak: it is one of the keys that stand in examples",
        ),
        (
            "your-secret-key-of-at-least-32-chars",
            "SECRET_KEY is too weak: it is one of the keys that stand in",
        ),
        (TUTORIAL, "SECRET_KEY is too weak: it is one of the keys that stand in examples"),
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
def test_a_secret_that_can_be_guessed_is_refused_wherever_tokens_are_asked_for(
    environment: str, key: str | None, why: str
) -> None:
    [reason] = reasons(environment=environment, auth_mode="required", secret_key=key)
    assert reason.startswith(why)
    assert reason.endswith(MAKE)
    assert not key or key not in reason


@pytest.mark.parametrize(
    ("content", "why"), [(None, "cannot be read"), ("\n \n", "is missing"), ("short", "too weak")]
)
def test_a_secret_file_that_is_no_good_is_refused_by_its_own_name(
    tmp_path: Path, content: str | None, why: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    [reason] = reasons(environment="production", secret_key_file=file, secret_key=KEY)
    assert reason.startswith("SECRET_KEY_FILE")
    assert why in reason


def test_one_weak_key_among_several_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\nold\n")
    [reason] = reasons(secret_key_file=file)
    assert "too weak" in reason


@pytest.mark.parametrize(
    ("given", "name"),
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
        ({"admin_username": "root"}, "ADMIN_USERNAME and ADMIN_PASSWORD must be given together"),
        ({"admin_password": PASSWORD}, "ADMIN_USERNAME and ADMIN_PASSWORD must be given together"),
    ],
    ids=str,
)
def test_each_bad_setting_is_refused_by_name(given: Given, name: str) -> None:
    [reason] = reasons(**({"secret_key": KEY, "auth_mode": "required"} | given))
    assert reason.startswith(name)


@pytest.mark.parametrize(
    "given",
    [
        {"auth_mode": "open"},
        {"auth_mode": "open", "secret_key": "weak"},
        {"auth_mode": "open", "environment": "staging", "secret_key": KEY},
        {"environment": "production", "secret_key": KEY, **ADMIN},
        {"debug": True, "secret_key": KEY},
    ],
    ids=str,
)
def test_what_is_good_enough_for_its_environment_starts(given: Given) -> None:
    assert reasons(**given) == []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (
            {"ENVIRONMENT": "production", "AUTH_MODE": "open", "DEBUG": "true", "ADMIN_USERNAME": "root",
             "ADMIN_PASSWORD": "changeme", "SECRET_KEY": "0123456789-test-0123456789"},
            ["DEBUG", "AUTH_MODE", "SECRET_KEY", "ADMIN_PASSWORD"],
        ),
        ({}, ["SECRET_KEY"]),  # who says nothing gets no service without log-in
        ({"SECRET_KEY": KEY, "RATE_LIMIT_READ": "many"}, ["RATE_LIMIT_READ"]),
        ({"SECRET_KEY": KEY, "CORS_ORIGINS": "app.example.com"}, ["CORS_ORIGINS"]),
        ({"SECRET_KEY": KEY, "TRUSTED_PROXIES": "proxy"}, ["TRUSTED_PROXIES"]),
        ({"SECRET_KEY": KEY, "ALGORITHM": "none"}, ["ALGORITHM"]),
        ({"SECRET_KEY": KEY, "AUTH_MODE": "off"}, ["AUTH_MODE"]),
    ],
    ids=["all at once", "nothing", "limit", "origin", "proxy", "algorithm", "mode"],
)  # fmt: skip
def test_the_process_ends_at_once_and_says_which_settings(
    tmp_path: Path, given: dict[str, str], names: list[str]
) -> None:
    environment = environment_of(
        tmp_path, {"DATABASE_URL": "postgresql://ada:horse7battery@127.0.0.1:1/x", **given}
    )
    argv = [sys.executable, "-m", "task_service.cli", "api"]
    ended = subprocess.run(
        argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr
    said = [line for line in ended.stderr.splitlines() if "does not start" not in line]
    assert [re.split("[: =]", line)[0] for line in said] == names
    assert "horse7battery" not in ended.stderr
    assert given.get("SECRET_KEY", "-none-") not in ended.stderr


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_a_process_says_at_its_start_which_of_two_addresses_it_takes() -> None:
    given = {
        "database_url": NOWHERE,
        "db_host": "elsewhere",
        "auth_mode": "open",
        "log_level": "WARNING",
    }
    with api_processes(1, "livez", **given) as [process]:
        lines = lines_of(process.log())
    said = [line["meaning"] for line in lines if line["event"] == "settings_contradict"]
    assert said == ["DATABASE_URL wins over DB_HOST"]
    assert {line["level"] for line in lines} == {"warning"}, "LOG_LEVEL holds for the whole process"


@pytest.mark.parametrize(
    ("level", "seen"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)]
)
def test_lines_of_the_log_level_and_above_are_logged_ours_and_those_of_libraries(
    tmp_path: Path, level: str, seen: int
) -> None:
    environment = environment_of(tmp_path, {"LOG_LEVEL": level})
    argv = [sys.executable, "-c", LOGS]
    ended = subprocess.run(
        argv, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    logged = [(line["event"], line["level"]) for line in lines_of(ended.stderr)]
    assert logged == [(who, name) for who in ("ours", "a library's") for name in LEVELS[-seen:]]
