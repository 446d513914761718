"""`task-service dev`, which `make run` starts, as a separate process."""

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
    """New folder that every user may enter, because PostgreSQL of root runs as another user."""
    path = Path(tempfile.mkdtemp(prefix="task-service-dev-", dir="/var/tmp"))
    yield path
    with contextlib.suppress(OSError, ValueError):  # a server of a failed test
        os.kill(
            int((path / "postgresql/postmaster.pid").read_text().splitlines()[0]), signal.SIGINT
        )
    shutil.rmtree(path)


class Dev:
    """A `task-service dev` process on free ports."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.ports = {"PORT": free_port(), "MANAGEMENT_PORT": free_port()}
        self.env = os.environ | {
            name: str(value) for name, value in (self.ports | settings).items()
        }
        self.url = f"http://127.0.0.1:{self.ports['PORT']}/api/v1"

    async def start(self) -> Process:
        """Start the process without waiting for it."""
        argv = [sys.executable, "-m", "task_service.cli", "dev", "--data", str(self.folder)]
        return await asyncio.create_subprocess_exec(
            *argv, env=self.env, cwd="/", stdout=PIPE, stderr=PIPE
        )

    @contextlib.asynccontextmanager
    async def running(
        self, end: signal.Signals = signal.SIGTERM
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Start the service and yield a client; end it with a signal and keep its exit code in
        `code`.
        """
        process = await self.start()
        output = asyncio.create_task(process.communicate())
        async with httpx.AsyncClient(base_url=self.url) as client:

            async def is_ready() -> bool:
                assert process.returncode is None, output.result()
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get("/queues")).status_code == 200
                return False

            try:
                await eventually("the first response of the service", is_ready, END_SECONDS)
                yield client
            finally:
                if process.returncode is None:
                    process.send_signal(end)
                self.output, _ = await asyncio.wait_for(output, END_SECONDS)
                self.code = process.returncode


async def test_tasks_survive_every_way_to_stop_the_service(folder: Path) -> None:
    dev = Dev(folder)
    titles: list[str] = []
    for end in (signal.SIGHUP, signal.SIGKILL, signal.SIGTERM):
        async with dev.running(end) as client:
            tasks = (await client.get("/tasks", params={"sort": "created_at"})).json()["items"]
            assert [task["title"] for task in tasks] == titles
            assert (await client.post("/tasks", json={"title": end.name})).status_code == 201
            titles.append(end.name)
        assert dev.code == (-signal.SIGKILL if end is signal.SIGKILL else 0)
        is_server_left = (folder / "postgresql/postmaster.pid").exists()
        assert is_server_left == (end is signal.SIGKILL)


async def test_settings_from_the_environment_apply_and_urls_are_printed(
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

        await eventually("completion of the task", completed)
        assert [
            worker["concurrency"] for worker in (await client.get("/workers")).json()["workers"]
        ] == [3]
    output = dev.output.decode()
    assert f"{dev.url}/tasks\n" in output
    assert f"http://127.0.0.1:{dev.ports['PORT']}/docs\n" in output
    assert f"{folder}\n" in output
    assert "Stop it with Ctrl-C" in output


async def test_access_is_open_and_the_signing_key_is_kept(folder: Path) -> None:
    dev = Dev(folder)
    keys = []
    for _ in range(2):
        async with dev.running():
            file = folder / "secret-key"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            keys.append(file.read_text())
    assert keys[0] == keys[1]
    assert len(keys[0]) == 64
    assert "(AUTH_MODE=open)" in dev.output.decode()


def test_auth_settings_of_the_environment_take_precedence(folder: Path) -> None:
    settings = load_settings(auth_mode="required", secret_key="k" * 32)
    assert _access_settings(settings, folder) == {}
    assert "auth_mode" not in _access_settings(load_settings(environment="production"), folder)


async def test_used_ports_are_reported_with_alternatives(folder: Path) -> None:
    dev = Dev(folder)
    with contextlib.ExitStack() as sockets:
        for port in dev.ports.values():
            sockets.enter_context(socket.create_server(("127.0.0.1", port)))
        process = await dev.start()
        _, output = await asyncio.wait_for(process.communicate(), END_SECONDS)
    text = output.decode()
    assert process.returncode == 1, text
    assert "Traceback" not in text
    for setting, port in dev.ports.items():
        assert f"Port {port} is in use. Choose another one ({setting}=" in text
    assert not (folder / "postgresql").exists()


@pytest.fixture
def start_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Function that starts the service in this process, where it must fail, and returns its errors."""
    monkeypatch.setenv("MANAGEMENT_PORT", str(free_port()))

    def start() -> str:
        assert run_dev(folder, free_port()) == 1
        return capsys.readouterr().err

    return start


def test_free_port_stays_reserved_until_its_server_listens() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(
            ("127.0.0.1", port)
        )  # without SO_REUSEADDR, like a connection for which the kernel chooses a port
    socket.create_server(("127.0.0.1", port)).close()


def test_data_folder_in_use_is_rejected_with_its_process(
    folder: Path, start_error: Callable[[], str]
) -> None:
    with EmbeddedPostgres(folder):
        output = start_error()
    assert f"{folder} is in use by process {os.getpid()}." in output
    assert "choose another folder (DATA=folder)" in output


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("postgresql", "", "cannot be used: File exists"),
        ("postgresql/notes.txt", "mine", "exists but is not empty"),
        ("postgresql/PG_VERSION", "12\n", "was created by PostgreSQL 12"),
        ("postgresql/PG_VERSION", "18\n", "postgresql.conf"),
    ],
)
def test_unusable_data_folder_is_rejected_with_advice(
    folder: Path, start_error: Callable[[], str], file: str, content: str, reason: str
) -> None:
    path = folder / file
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(content)
    path.chmod(0o644)
    output = start_error()
    assert reason in output
    assert "DATA=folder" in output
    assert path.read_text() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_default_folder_of_root_is_accessible_to_every_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert default_folder().parent == Path("/var/tmp")
    folder.chmod(0o755)
    assert default_folder() == folder / ".data"
