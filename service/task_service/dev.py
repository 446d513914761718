"""`task-service dev`: PostgreSQL from the wheel, migrations, API and worker in one terminal. No Docker, no cluster."""

import asyncio
import errno
import socket
import sys
from pathlib import Path

from task_service.embedded import EmbeddedPostgres, EmbeddedPostgresError
from task_service.migrations.command import run_migrate
from task_service.server import serve
from task_service.settings import Settings, load_settings
from task_service.telemetry.logs import configure_logs


def run_dev(folder: Path, port: int | None) -> int:
    """Run until Ctrl-C; data stays in `folder`. Returns the exit code; what is wrong is said on standard error."""
    given = load_settings(port=port)
    host = given.host if "host" in given.model_fields_set else "127.0.0.1"
    try:
        _refuse_used_port(host, given.port, "PORT")
        _refuse_used_port("127.0.0.1", given.management_port, "MANAGEMENT_PORT")
        server = EmbeddedPostgres(folder)
        server.start()
    except EmbeddedPostgresError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        settings = load_settings(
            port=port, host=host, management_host="127.0.0.1", database_url=server.url("tasks"), log_format="console",
            runtime_dir=folder.absolute() / "run", shutdown_seconds=min(given.shutdown_seconds, 10),
        )  # fmt: skip
        configure_logs(settings)
        return asyncio.run(_run(settings, folder))
    finally:
        server.stop()


async def _run(settings: Settings, folder: Path) -> int:
    if code := await run_migrate(settings):
        return code
    started = asyncio.Event()
    serving = asyncio.create_task(serve(settings, api=True, worker=True, started=started))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    url = f"http://{settings.host}:{settings.port}"
    print(
        f"\n  The task service runs at   {url}\n"
        f"  API documentation          {url}/docs\n"
        f"  Metrics and probes         http://127.0.0.1:{settings.management_port}/metrics\n"
        f"  Data is kept in            {folder}\n"
        f"  Stop it with Ctrl-C.\n",
        flush=True,
    )
    await serving
    return 0


def _refuse_used_port(host: str, port: int, setting: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"Port {port} is in use. Choose another one ({setting}={port + 1}), or stop what uses it."
            else:
                message = f"Port {port} on {host} cannot be used: {error.strerror}. Choose another one ({setting}=…)."
            raise EmbeddedPostgresError(message) from error
