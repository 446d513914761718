"""`/api/v1/daily-log`: the daily snapshot of active tasks."""

from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from task_service.api import answers
from task_service.api.answers import answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, OperatorRole
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.schemas.responses import Page, PageQuery
from task_service.schemas.tasks import Input
from task_service.schemas.types import Day
from task_service.services import daily_log as service
from task_service.store import daily_log as store

PREFIX = "/api/v1/daily-log"
router = APIRouter(route_class=AuthorizedRoute, tags=["daily log"])


class Entry(BaseModel):
    """A task as the daily log recorded it on a day."""

    id: UUID
    number: int
    date: date
    task_id: UUID
    title: str
    status: str
    assigned_to: str | None
    created_at: datetime


class LoadResult(BaseModel):
    """Result of a run of the daily loader."""

    date: date
    entries: int = Field(description="Entries of the day after this run.")
    added: int = Field(description="Entries added by this run.")


class EntryQuery(PageQuery):
    """Page and day to list."""

    date: Day | None = Field(
        default=None, description="A day such as 2026-12-31. Without it: all days, newest first."
    )


class LoadRequest(Input):
    """Day to load."""

    date: Day | None = Field(default=None, description="Today or earlier; null means today.")


@router.get(PREFIX, response_model=Page[Entry], responses=documented(), dependencies=[MAY_READ])
async def list_entries(
    transactions: Transactions, query: Annotated[EntryQuery, Query()]
) -> Response:
    """Return one page of the daily log, of one day or of all days."""
    async with transactions.read() as connection:
        rows, cursor = await store.list_entries(connection, query.date, query.limit, query.cursor)
    return answers.page(map(asdict, rows), cursor)


@router.get(
    PREFIX + "/{entry_id}", response_model=Entry, responses=documented(404), dependencies=[MAY_READ]
)
async def read_entry(
    transactions: Transactions,
    entry_id: Annotated[str, Path(description="The entry's UUID or number.")],
) -> Response:
    """Return one entry of the daily log."""
    return answer(asdict(await service.find_entry(transactions, entry_id)))


@router.post(PREFIX + ":run", response_model=LoadResult, responses=documented(400, 413, 415))
async def run_daily_log(
    transactions: Transactions,
    _: OperatorRole,
    idempotent: Idempotent,
    body: LoadRequest | None = None,
) -> Response:
    """Run the daily loader now: add an entry for each active task that has none for the day.

    For a past day it records the tasks that were active at the end of that day, as far as known.
    """
    day = body.date if body else None
    return await idempotent.write(
        lambda t: service.run(transactions, day, waiting=t.sql),
        lambda load: answer(asdict(load)),
    )
