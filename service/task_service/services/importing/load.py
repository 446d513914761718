"""Loader that writes converted rows and records the result of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from task_service.services.importing.chunks import Row
from task_service.services.importing.convert import BadRowError, Conversion
from task_service.services.importing.report import Summary
from task_service.store.importing import target as store

Pair = tuple[Row, Row]
"""A source row and its converted row."""
Made = Mapping[str, int | None]
"""Ids of new rows and their numbers."""
REFUSED = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""Errors that the content of a single row can cause."""
REASONS = {
    "users": "another user has this username",
    "daily_log": "its task was not imported, or has an entry for that day",
}
"""Reasons why a valid row is left out. In other tables its task was not imported."""


@dataclass(frozen=True, slots=True)
class Table:
    """How a table is imported: sort column, conversion, and statement with further arguments."""

    name: str
    order: str
    convert: Callable[[Mapping[str, Any], Conversion], Row]
    statement: str
    more: tuple[Any, ...] = ()


class Loader:
    """Writes in the caller's transaction and counts in a summary."""

    def __init__(self, target: asyncpg.Connection, how: Conversion, summary: Summary) -> None:
        self._target = target
        self._how = how
        self._summary = summary

    def convert(self, table: Table, rows: Sequence[Row]) -> list[Pair]:
        """Convert the rows. Invalid ones are recorded and left out."""
        pairs = []
        self._summary.of(table.name).read += len(rows)
        for row in rows:
            try:
                pairs.append((row, table.convert(row, self._how)))
            except BadRowError as error:
                self._summary.leave_out(table.name, _key(row), str(error))
        return pairs

    async def insert(self, table: Table, pairs: Sequence[Pair]) -> Made:
        """Insert new rows. A row that the database rejects is found by bisection and recorded."""
        if not pairs:
            return {}
        rows = [new | {"place": place} for place, (_, new) in enumerate(pairs)]
        try:
            async with self._target.transaction():
                made = await store.insert_rows(self._target, table.statement, rows, *table.more)
        except REFUSED as error:
            if len(pairs) == 1:
                self._summary.leave_out(table.name, _key(pairs[0][0]), str(error))
                return {}
            half = len(pairs) // 2
            return {
                **await self.insert(table, pairs[:half]),
                **await self.insert(table, pairs[half:]),
            }
        await self._record_results(table, pairs, made)
        return made

    async def _record_results(self, table: Table, pairs: Sequence[Pair], made: Made) -> None:
        """Count new rows, known rows, and rows left out because their task is missing."""
        orphans = await self._orphans(table, pairs)
        for old in orphans:
            self._summary.leave_out(
                table.name, _key(old), REASONS.get(table.name, "its task was not imported")
            )
        figures = self._summary.of(table.name)
        figures.made += len(made)
        figures.known += len(pairs) - len(orphans) - len(made)
        wanted = {str(new["id"]): new["number"] for _, new in pairs if new.get("number")}
        self._summary.renumbered += sum(
            made[key] != number for key, number in wanted.items() if key in made
        )

    async def _orphans(self, table: Table, pairs: Sequence[Pair]) -> list[Row]:
        if table.name == "settings":
            return []
        # Entries of an audit log have no ids: look for their tasks instead.
        where, by = ("tasks", "task_id") if table.name == "audit_log" else (table.name, "id")
        known = await store.known_ids(self._target, where, [new[by] for _, new in pairs])
        return [old for old, new in pairs if str(new[by]) not in known]


def _key(row: Mapping[str, Any]) -> object:
    return row.get("id", row.get("key", row.get("task_id")))
