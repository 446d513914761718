"""The command `task-service import`: prints the summary, or the error in one line."""

import sys
from typing import get_args

import asyncpg

from task_service.migrations.migrate_command import why
from task_service.services.importing.run import run_import
from task_service.services.importing.schemas import Letter, SchemaError
from task_service.settings import Settings

DONE, FAILED, MISUSED, ROWS_LEFT_OUT = 0, 1, 2, 3


async def run_command(settings: Settings, service: str, url: str, *, dry_run: bool) -> int:
    """Import and print the summary.

    Returns the exit code: 0 for success, 1 for a failure, 2 for invalid arguments, 3 if rows were
    left out.
    """
    letter = next((each for each in get_args(Letter) if each == service.lower()), None)
    if letter is None:
        print("--from must be a, b, c, d or e", file=sys.stderr)
        return MISUSED
    try:
        summary = await run_import(settings, letter, url, dry_run=dry_run)
    except SchemaError as error:
        print(f"import failed: {error}", file=sys.stderr)
        return FAILED
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        print(
            "import failed: the target database is not migrated; run task-service migrate first",
            file=sys.stderr,
        )
        return FAILED
    except Exception as error:  # noqa: BLE001 - one line without the URL's password
        print(f"import failed: {why(error)}", file=sys.stderr)
        return FAILED
    print(summary.render(dry_run=dry_run))
    return ROWS_LEFT_OUT if summary.left_out.count else DONE
