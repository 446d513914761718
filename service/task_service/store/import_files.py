"""Imported files, by their digest: what makes an import happen once."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.tables import imports

NOTHING_YET = {"rows": 0, "created": 0, "skipped": 0, "report": {}}


async def claim(
    connection: AsyncConnection, digest: str, file_name: str | None, caller: str
) -> bool:
    """Take this digest for the caller's transaction; False when the file was imported already.

    Waits while another transaction imports the same file.
    """
    row = {"digest": digest, "file_name": file_name, "created_by": caller, **NOTHING_YET}
    statement = insert(imports).values(row).on_conflict_do_nothing().returning(imports.c.digest)
    return (await connection.execute(statement)).first() is not None


async def keep_report(connection: AsyncConnection, digest: str, report: Mapping[str, Any]) -> None:
    """Write what the import did (`rows`, `created`, `skipped` and all else that the report has)."""
    figures = {name: report[name] for name in ("rows", "created", "skipped")}
    statement = update(imports).where(imports.c.digest == digest)
    await connection.execute(
        statement.values(**figures, report=dict(report), created_at=func.clock_timestamp())
    )


async def read_report(connection: AsyncConnection, digest: str) -> dict[str, Any]:
    """The report of the first import of this file."""
    found = await connection.scalar(select(imports.c.report).where(imports.c.digest == digest))
    return dict(found or {})
