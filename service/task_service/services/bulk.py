"""Enter many tasks in few statements, in the caller's transaction: what batches, files and schedules have in common."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError
from task_service.domain.fields import check_due
from task_service.domain.ids import new_id
from task_service.domain.principals import Principal
from task_service.domain.statuses import OPEN
from task_service.queue import dependencies, entries
from task_service.queue.statements import Connection
from task_service.schemas.tasks import NewTask
from task_service.services.context import Context
from task_service.services.task_rows import entry_of, json_text, needs_of, new_row, shown_status
from task_service.store.database import raw
from task_service.store.inserts import FirstLine, NewConversationRow, copy_rows
from task_service.store.unique import KeyClaim, claim_keys
from task_service.telemetry.helpers import current_trace_context
from task_service.telemetry.metrics import count_created

CHUNK = 1_000
"""Tasks that are prepared at a time; the event loop serves others in between."""
Kind: TypeAlias = tuple[str, str | None]
T = TypeVar("T")
log = structlog.get_logger(__name__)


class NewDraft(NamedTuple):
    """A task that is to be made, with the id that it will have."""

    id: UUID
    draft: NewTask


class Entered(NamedTuple):
    """The tasks of drafts, in their order, those to make, and the places of those that were there already."""

    ids: list[UUID]
    new: list[NewDraft]
    present: list[int]


async def enter_tasks(
    context: Context,
    connection: AsyncConnection | Connection,
    drafts: Sequence[NewTask],
    caller: Principal,
) -> Entered:
    """Insert tasks with history, conversations and places in the queue, but for those whose unique key is held.

    One draft or 10,000. Runs in the caller's transaction, on SQLAlchemy's connection or the driver's own. Due dates are
    not checked here: see `past_due`.
    """
    driver = await raw(connection) if isinstance(connection, AsyncConnection) else connection
    entered = await claim_ids(driver, drafts)
    for chunk in chunks(entered.new):
        await insert_drafts(context, driver, chunk, caller)
    await _wait_for_needs(driver, drafts, entered.new)
    count_kinds(Counter(kind_of(new.draft) for new in entered.new))
    log.info("tasks_created", number=len(entered.new), present=len(entered.present), by=caller.name)
    return entered


async def _wait_for_needs(
    connection: Connection, drafts: Sequence[NewTask], made: Sequence[NewDraft]
) -> None:
    """All in one go: needed tasks are locked in one order. Raises InvalidFieldError."""
    needs = [need for new in made for need in needs_of(new.id, new.draft)]
    if missing := await dependencies.block(connection, needs):
        place, other = next(
            (n, i) for n, draft in enumerate(drafts) for i in draft.needs if i in missing
        )
        raise InvalidFieldError(f"tasks.{place}.needs", f"there is no task {other}")


async def claim_ids(connection: Connection, drafts: Sequence[NewTask]) -> Entered:
    """The ids of new tasks, and of those that hold a draft's unique key: as if the drafts came one after another."""
    own = [new_id() for _ in drafts]
    ids, claims, open_keys = list(own), dict[str, KeyClaim](), set[str]()
    for place, draft in enumerate(drafts):
        key = draft.unique_key
        if key is None:
            continue
        if key in open_keys:
            ids[place] = claims[key].task_id
            continue
        claims[key] = KeyClaim(key, own[place], draft.unique_seconds)
        if draft.status in OPEN or draft.unique_seconds:
            open_keys.add(key)
    held = await claim_keys(connection, claims.values())
    ids = [held.get(draft.unique_key or "", i) for draft, i in zip(drafts, ids, strict=True)]
    new = [NewDraft(i, draft) for i, mine, draft in zip(ids, own, drafts, strict=True) if i == mine]
    return Entered(ids, new, [place for place, i in enumerate(ids) if i != own[place]])


def kind_of(draft: NewTask) -> Kind:
    """What metrics tell tasks apart by."""
    return draft.queue, draft.handler


def count_kinds(kinds: Mapping[Kind, int]) -> None:
    """Count tasks that were created, for the metrics."""
    for (queue, handler), number in kinds.items():
        count_created(queue, handler, number)


def past_due(draft: NewTask, now: datetime) -> str | None:
    """What is wrong with the draft's due date; None when nothing is."""
    if draft.due_date is None:
        return None
    try:
        check_due(draft.due_date, now)
    except ValueError as error:
        return str(error)
    return None


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of at most `CHUNK`."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


async def insert_drafts(
    context: Context, connection: Connection, drafts: Sequence[NewDraft], caller: Principal
) -> None:
    """`enter_tasks` for one chunk, on the driver's connection; counts and logs nothing."""
    now, attempts, trace = (
        context.clock(),
        context.settings.default_max_attempts,
        current_trace_context(),
    )
    rows = [new_row(new.id, new.draft, now, attempts, caller) for new in drafts]
    pairs = [(row, new.draft) for row, new in zip(rows, drafts, strict=True)]
    await copy_rows(connection, rows)
    await copy_rows(
        connection, [FirstLine(r.id, shown_status(d, now), caller.name) for r, d in pairs]
    )
    bodies = [
        NewConversationRow(new_id(), r.id, json_text(c.body))
        for r, d in pairs
        for c in d.conversations
    ]
    await copy_rows(connection, bodies)
    waiting = [entry for row in rows if (entry := entry_of(row, trace)) is not None]
    await entries.enqueue(connection, waiting, context.wakeups)
