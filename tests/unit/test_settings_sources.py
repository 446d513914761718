"""Where settings come from: variables by name, a `.env` file, and the addresses that are made of parts."""

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
    "HOST": ("old-host", "new-host"), "PORT": ("5433", "6432"), "NAME": ("old-name", "new-name"),
    "USER": ("old-user", "new-user"), "PASSWORD": ("old-word", "new-word"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_each_part_of_the_databases_address_is_in_its_url_and_db_wins_over_postgres(
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


def test_redis_is_where_host_and_port_say_unless_a_url_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings().read_redis_url() is None
    monkeypatch.setenv("REDIS_PORT", "6380")
    assert load_settings().read_redis_url() is None, "a port alone is no address"
    monkeypatch.setenv("REDIS_HOST", "cache")
    assert load_settings().read_redis_url() == "redis://cache:6380/0"
    monkeypatch.delenv("REDIS_PORT")
    assert load_settings().read_redis_url() == "redis://cache:6379/0"
    monkeypatch.setenv("REDIS_URL", "redis://other:1/2")
    assert load_settings().read_redis_url() == "redis://other:1/2"


def test_the_env_file_in_the_working_directory_is_read_and_the_environment_wins_over_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=8100\nALGORITHM=HS512\n")
    monkeypatch.setenv("PORT", "8200")
    found = load_settings()
    assert (found.port, found.algorithm) == (8200, "HS512")
