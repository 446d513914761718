"""Settings: precedence, validation, and the generated example."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from task_service.generate.env_example import main
from task_service.settings import Settings
from task_service.settings_help import render


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[call-arg,arg-type]


def test_database_url_overrides_db_which_overrides_postgres(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTGRES_HOST", "weak")
    monkeypatch.setenv("POSTGRES_USER", "ada")
    monkeypatch.setenv("POSTGRES_PASSWORD", "a/b@c")
    assert settings().read_database_url() == "postgresql://ada:a%2Fb%40c@weak:5432/tasks_db"
    monkeypatch.setenv("DB_HOST", "strong")
    assert settings().read_database_url() == "postgresql://ada:a%2Fb%40c@strong:5432/tasks_db"
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://u@url/x")
    assert settings().read_database_url() == "postgresql://u@url/x"
    file = tmp_path / "url"
    file.write_text("postgresql://u@file/x\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    assert settings().read_database_url() == "postgresql://u@file/x"
    file.write_text("postgresql://u@rotated/x\n")
    assert settings().read_database_url() == "postgresql://u@rotated/x"
    assert "DATABASE_URL_FILE wins over DATABASE_URL" in settings().contradictions()


def test_empty_variable_means_the_default_except_for_default_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("DEFAULT_HANDLER", "")
    assert (settings().port, settings().default_handler) == (8000, "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heartbeat_seconds": 6, "lease_seconds": 15}, "HEARTBEAT_SECONDS"),
        ({"conversations_min_seconds": 8}, "CONVERSATIONS_MIN_SECONDS"),
        ({"port": 8081}, "PORT"),
        ({"worker_queues": "good,bad queue"}, "bad queue"),
        ({"worker_queues": " , "}, "names separated by commas"),
        ({"worker_concurrency": 0}, "worker_concurrency"),
        ({"poll_seconds": 2}, "poll_seconds"),
        ({"environment": "prod"}, "environment"),
    ],
)
def test_invalid_setting_is_rejected_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**values)


@pytest.mark.parametrize("url", ["mysql://u@h/x", "postgresql://", "nonsense"])
def test_invalid_database_url_error_shows_the_expected_form(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://user:password@host"):
        settings(database_url=url).read_database_url()


def test_passwords_are_not_in_the_representation() -> None:
    assert "geheim" not in repr(settings(db_password="geheim", postgres_password="geheim"))


def test_example_lists_every_setting_and_detects_a_stale_file(tmp_path: Path) -> None:
    assert all(f"# {name.upper()}=" in render() for name in Settings.model_fields)
    assert main(check=True, root=tmp_path) == [".env.example"]
    main(root=tmp_path)
    assert main(check=True, root=tmp_path) == []
