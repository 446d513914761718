"""Run and manage the task service."""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from task_service.settings import Settings, load_settings
from task_service.signals import exit_on_sigterm

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


@app.command()
def api() -> None:
    """Serve the HTTP API and the management port."""
    _serve(api=True, worker=False)


@app.command()
def worker() -> None:
    """Run tasks and serve the management port."""
    _serve(api=False, worker=True)


@app.command()
def serve() -> None:
    """Run the API and a worker in one process."""
    _serve(api=True, worker=True)


@app.command()
def migrate() -> None:
    """Migrate the database to this version's schema. A newer compatible schema is not changed."""
    from task_service.migrations.migrate_command import run_migrate
    from task_service.telemetry.logs import configure_logs

    given = _settings()
    configure_logs(given)
    raise SystemExit(asyncio.run(run_migrate(given)))


@app.command()
def dev(
    port: Annotated[
        int | None, typer.Option(help="Port of the API (default: PORT or 8000).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder for PostgreSQL's data (default: .data).")
    ] = None,
) -> None:
    """Run everything locally: PostgreSQL, migrations, API and worker. Stop it with Ctrl-C."""
    try:
        from task_service.dev import run_dev
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is missing: pip install 'task-service[service,embedded]'"
        ) from error
    _settings(port=port)
    raise SystemExit(run_dev(data, port))


@app.command(name="import")
def import_(
    service: Annotated[str, typer.Option("--from", help="The old service: a, b, c, d or e.")],
    url: Annotated[str, typer.Argument(envvar="SOURCE_DATABASE_URL", help="URL of its database.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Convert and check everything, but write nothing.")
    ] = False,
) -> None:
    """Import tasks, users and history from the tables of an old service. Safe to run again."""
    from task_service.services.importing.import_command import run_command
    from task_service.telemetry.logs import configure_logs

    given = _settings()
    configure_logs(given)
    raise SystemExit(asyncio.run(run_command(given, service, url, dry_run=dry_run)))


@app.command()
def settings() -> None:
    """Print every setting with its description and default, as an .env file."""
    from task_service.settings_help import render

    print(render(), end="")


def _serve(*, api: bool, worker: bool) -> None:
    exit_on_sigterm()
    gc.disable()  # until it has started: collections take a sixth of the start-up time
    import uvloop

    from task_service.server import serve as run
    from task_service.telemetry.logs import configure_logs
    from task_service.worker.process import leave_threads_behind

    given = _settings()
    configure_logs(given)
    if api:
        _refuse_bad_start(given)

    async def run_and_leave() -> None:
        await run(given, api=api, worker=worker)
        if worker:
            leave_threads_behind()

    try:
        uvloop.run(run_and_leave())
    except OSError as error:
        raise SystemExit(f"cannot start: {error}") from error


def _refuse_bad_start(given: Settings) -> None:
    from task_service.api.auth.first_admin import StartRefusedError, refuse_bad_start

    try:
        refuse_bad_start(given)
    except StartRefusedError as error:
        print(f"the API cannot start:\n{error}", file=sys.stderr)
        raise SystemExit(2) from None


def _settings(**given: object) -> Settings:
    """Read the settings, or print the invalid ones and exit."""
    try:
        return load_settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"]).upper() or "settings"
            print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        raise SystemExit(2) from error


def main() -> None:
    """Run a command. SIGTERM raises SystemExit until the command installs its own handler."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app()


if __name__ == "__main__":
    main()
