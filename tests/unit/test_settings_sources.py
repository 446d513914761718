"""Sources of settings: variables, a `.env` file, and URLs built from their parts."""

from pathlib import Path

import pytest

from task_service.settings import Settings, load_settings

POSTGRES = {
    "HOST": "old-host",
    "PORT": "5433",
    "DB": "old-name",
    "USER": "old-user",
    "PASSWORD": "old-word",
}
DB = {
    "HOST": ("old-host", "new-host"),
    "PORT": ("5433", "6432"),
    "NAME": ("old-name", "new-name"),
    "USER": ("old-user", "new-user"),
    "PASSWORD": ("old-word", "new-word"),
}


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_each_part_is_in_the_database_url_and_db_overrides_postgres(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().read_database_url() == "postgresql://postgres@localhost:5432/tasks_db"
    for name, value in POSTGRES.items():
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    url = "postgresql://old-user:old-word@old-host:5433/old-name"
    assert load_settings().read_database_url() == url
    for name, (old, new) in DB.items():
        monkeypatch.setenv(f"DB_{name}", new)
        url = url.replace(old, new)
        assert load_settings().read_database_url() == url, name
    for name in POSTGRES:
        monkeypatch.delenv(f"POSTGRES_{name}")
    assert load_settings().read_database_url() == url


def test_redis_url_overrides_host_and_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().read_redis_url() is None
    monkeypatch.setenv("REDIS_PORT", "6380")
    assert load_settings().read_redis_url() is None, "a port without a host is not an address"
    monkeypatch.setenv("REDIS_HOST", "cache")
    assert load_settings().read_redis_url() == "redis://cache:6380/0"
    monkeypatch.delenv("REDIS_PORT")
    assert load_settings().read_redis_url() == "redis://cache:6379/0"
    monkeypatch.setenv("REDIS_URL", "redis://other:1/2")
    assert load_settings().read_redis_url() == "redis://other:1/2"


def test_environment_overrides_the_env_file_of_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=8100\nALGORITHM=HS512\n")
    monkeypatch.setenv("PORT", "8200")
    settings = load_settings()
    assert (settings.port, settings.algorithm) == (8200, "HS512")
