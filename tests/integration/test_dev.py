"""`task-service dev`, which `make run` starts, as a process of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from task_service.dev import _access_settings, default_folder, run_dev
from task_service.embedded import EmbeddedPostgres, free_port
from task_service.settings import load_settings
from tests.support.waiting import eventually

END_SECONDS = 60


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder that every user may reach, since root's PostgreSQL runs as another one."""
    path = Path(tempfile.mkdtemp(prefix="task-service-dev-", dir="/var/tmp"))
    yield path
    with contextlib.suppress(OSError, ValueError):  # a server that a failed test left behind
        os.kill(
            int((path / "postgresql/postmaster.pid").read_text().splitlines()[0]), signal.SIGINT
        )
    shutil.rmtree(path)


class Dev:
    """One `task-service dev` on ports of its own."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.ports = {"PORT": free_port(), "MANAGEMENT_PORT": free_port()}
        self.env = os.environ | {
            name: str(value) for name, value in (self.ports | settings).items()
        }
        self.url = f"http://127.0.0.1:{self.ports['PORT']}/api/v1"

    async def start(self) -> Process:
        """Start it, whether or not that will work."""
        argv = [sys.executable, "-m", "task_service.cli", "dev", "--data", str(self.folder)]
        return await asyncio.create_subprocess_exec(
            *argv, env=self.env, cwd="/", stdout=PIPE, stderr=PIPE
        )

    @contextlib.asynccontextmanager
    async def running(
        self, end: signal.Signals = signal.SIGTERM
    ) -> AsyncIterator[httpx.AsyncClient]:
        """A client of one that serves; afterwards it is ended by a signal, and its exit code is kept in `code`."""
        process = await self.start()
        output = asyncio.create_task(process.communicate())
        async with httpx.AsyncClient(base_url=self.url) as client:

            async def answers() -> bool:
                assert process.returncode is None, output.result()
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get("/queues")).status_code == 200
                return False

            try:
                await eventually("the service answers", answers, END_SECONDS)
                yield client
            finally:
                if process.returncode is None:
                    process.send_signal(end)
                self.said, _ = await asyncio.wait_for(output, END_SECONDS)
                self.code = process.returncode


async def test_tasks_survive_however_the_service_was_stopped(folder: Path) -> None:
    dev = Dev(folder)
    titles: list[str] = []
    for end in (signal.SIGHUP, signal.SIGKILL, signal.SIGTERM):
        async with dev.running(end) as client:
            kept = (await client.get("/tasks", params={"sort": "created_at"})).json()["items"]
            assert [task["title"] for task in kept] == titles
            assert (await client.post("/tasks", json={"title": end.name})).status_code == 201
            titles.append(end.name)
        assert dev.code == (-signal.SIGKILL if end is signal.SIGKILL else 0)
        server_is_left = (folder / "postgresql/postmaster.pid").exists()
        assert server_is_left == (end is signal.SIGKILL)


async def test_it_runs_tasks_with_settings_from_the_environment_and_says_where(
    folder: Path,
) -> None:
    dev = Dev(
        folder, WORKER_CONCURRENCY=3, CONVERSATIONS_MIN_SECONDS=0, CONVERSATIONS_MAX_SECONDS=0
    )
    async with dev.running() as client:
        created = await client.post("/tasks", json={"title": "Answer", "handler": "conversations"})

        async def completed() -> bool:
            return bool(
                (await client.get(f"/tasks/{created.json()['id']}")).json()["status"] == "completed"
            )

        await eventually("the task is completed", completed)
        assert [
            worker["concurrency"] for worker in (await client.get("/workers")).json()["workers"]
        ] == [3]
    said = dev.said.decode()
    assert f"{dev.url}/tasks\n" in said
    assert f"http://127.0.0.1:{dev.ports['PORT']}/docs\n" in said
    assert f"{folder}\n" in said
    assert "Stop it with Ctrl-C" in said


async def test_it_is_open_to_everybody_and_keeps_its_key_to_sign_tokens(folder: Path) -> None:
    dev = Dev(folder)
    keys = []
    for _ in range(2):
        async with dev.running():
            file = folder / "secret-key"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            keys.append(file.read_text())
    assert keys[0] == keys[1]
    assert len(keys[0]) == 64
    assert "(AUTH_MODE=open)" in dev.said.decode()


def test_what_the_environment_says_of_tokens_wins(folder: Path) -> None:
    given = load_settings(auth_mode="required", secret_key="k" * 32)
    assert _access_settings(given, folder) == {}
    assert "auth_mode" not in _access_settings(load_settings(environment="production"), folder)


async def test_used_ports_are_named_together_with_others_to_choose(folder: Path) -> None:
    dev = Dev(folder)
    with contextlib.ExitStack() as held:
        for port in dev.ports.values():
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        process = await dev.start()
        _, output = await asyncio.wait_for(process.communicate(), END_SECONDS)
    said = output.decode()
    assert process.returncode == 1, said
    assert "Traceback" not in said
    for setting, port in dev.ports.items():
        assert f"Port {port} is in use. Choose another one ({setting}=" in said
    assert not (folder / "postgresql").exists()


@pytest.fixture
def refusal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Start here, where only a refusal can come of it, and return what was said."""
    monkeypatch.setenv("MANAGEMENT_PORT", str(free_port()))

    def start() -> str:
        assert run_dev(folder, free_port()) == 1
        return capsys.readouterr().err

    return start


def test_a_free_port_goes_to_no_connection_and_nobody_else_before_its_server_listens() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(
            ("127.0.0.1", port)
        )  # without SO_REUSEADDR, as a connection that the kernel finds a port for
    socket.create_server(("127.0.0.1", port)).close()


def test_a_data_folder_in_use_is_refused_and_its_user_named(
    folder: Path, refusal: Callable[[], str]
) -> None:
    with EmbeddedPostgres(folder):
        said = refusal()
    assert f"{folder} is in use by process {os.getpid()}." in said
    assert "choose another folder (DATA=folder)" in said


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("postgresql", "", "cannot be used: File exists"),
        ("postgresql/notes.txt", "mine", "exists but is not empty"),
        ("postgresql/PG_VERSION", "12\n", "was created by PostgreSQL 12"),
        ("postgresql/PG_VERSION", "18\n", "postgresql.conf"),
    ],
)
def test_a_broken_data_folder_is_refused_with_advice(
    folder: Path, refusal: Callable[[], str], file: str, content: str, reason: str
) -> None:
    path = folder / file
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(content)
    path.chmod(0o644)
    said = refusal()
    assert reason in said
    assert "DATA=folder" in said
    assert path.read_text() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_root_keeps_data_where_every_user_may_enter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert default_folder().parent == Path("/var/tmp")
    folder.chmod(0o755)
    assert default_folder() == folder / ".data"
