"""The command `task-service dev`: bundled PostgreSQL, migrations, API and worker in one process."""

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
from hashlib import sha256
from pathlib import Path

from task_service.api.auth.first_admin import StartRefusedError, refuse_bad_start
from task_service.embedded import EmbeddedPostgres, EmbeddedPostgresError
from task_service.migrations.migrate_command import run_migrate
from task_service.server import serve
from task_service.settings import Settings, load_settings
from task_service.telemetry.logs import configure_logs

LOCAL = "127.0.0.1"
SHUTDOWN_MAX_SECONDS = 10
KEY_FILE = "secret-key"


def run_dev(folder: Path | None, port: int | None) -> int:
    """Run until Ctrl-C and return the exit code. Data is stored in `folder`."""
    given = load_settings(port=port)
    host = given.host if "host" in given.model_fields_set else LOCAL
    problems = [
        _port_problem(host, given.port, "PORT"),
        _port_problem(LOCAL, given.management_port, "MANAGEMENT_PORT"),
    ]
    if found := [problem for problem in problems if problem]:
        print(*found, sep="\n", file=sys.stderr)
        return 1
    folder = folder or default_folder()
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        settings = load_settings(
            port=port,
            host=host,
            management_host=LOCAL,
            database_url=server.url("tasks"),
            log_format="console",
            runtime_dir=folder.absolute() / "run",
            shutdown_seconds=min(given.shutdown_seconds, SHUTDOWN_MAX_SECONDS),
            **_access_settings(given, folder),
        )
        refuse_bad_start(settings)
        configure_logs(settings)
        for library in (
            "uvicorn.error",
            "alembic",
        ):  # the welcome text replaces their start messages
            logging.getLogger(library).setLevel(logging.WARNING)
        return asyncio.run(_run(settings, folder))
    except (EmbeddedPostgresError, StartRefusedError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        server.stop()


def default_folder() -> Path:
    """Return `.data`, or for root a folder that PostgreSQL's unprivileged user can enter."""
    here = Path(".data").absolute()
    if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in here.parents):
        return here
    return Path("/var/tmp") / f"task-service-{sha256(os.fsencode(here)).hexdigest()[:8]}"  # noqa: S108


def _access_settings(given: Settings, folder: Path) -> dict[str, object]:
    """Return open access unless configured otherwise, and a signing key of this folder."""
    mode_is_given = "auth_mode" in given.model_fields_set or given.environment == "production"
    chosen: dict[str, object] = {} if mode_is_given else {"auth_mode": "open"}
    if not given.secret_key and not given.secret_key_file:
        chosen["secret_key_file"] = _stored_secret(folder)
    return chosen


def _stored_secret(folder: Path) -> Path:
    """Return the file with this folder's key, which keeps tokens valid across restarts."""
    path = folder.absolute() / KEY_FILE
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as file:
            file.write(secrets.token_hex(32))
        unfinished.rename(path)
    return path


async def _run(settings: Settings, folder: Path) -> int:
    # Stop when the terminal is closed; otherwise the database server would keep running.
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, os.kill, os.getpid(), signal.SIGTERM
    )
    if code := await run_migrate(settings):
        return code
    started = asyncio.Event()
    serving = asyncio.create_task(serve(settings, api=True, worker=True, started=started))
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    if started.is_set():
        print(_welcome(settings, folder), flush=True)
    await serving
    return 0


def _welcome(settings: Settings, folder: Path) -> str:
    host = {"0.0.0.0": LOCAL, "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    tokens = {
        "open": "not required; every caller has full access (AUTH_MODE=open)",
        "required": f"required; issued by {url}/api/v1/auth/token (AUTH_MODE=required)",
    }
    return (
        f"\n  The task service runs at   {url}/api/v1/tasks\n"
        f"  API documentation          {url}/docs\n"
        f"  Tokens                     {tokens[settings.auth_mode]}\n"
        f"  Metrics and probes         http://{LOCAL}:{settings.management_port}/metrics\n"
        f"  Data folder                {folder}\n"
        f"  Stop it with Ctrl-C.\n"
    )


def _port_problem(host: str, port: int, setting: str) -> str | None:
    """Return why a port cannot be used and how to fix it; None if it can be used."""
    problem = _bind_error(host, port)
    if problem is None:
        return None
    other = next(
        (p for p in range(port + 1, min(port + 100, 65_536)) if _bind_error(host, p) is None), None
    )
    advice = f"Choose another one ({setting}={other or '…'})"
    if problem.errno == errno.EADDRINUSE:
        return f"Port {port} is in use. {advice}, or stop the process that uses it."
    return f"Port {port} on {host} cannot be used: {problem.strerror}. {advice}."


def _bind_error(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
