"""What people do: create, change, cancel, run again, delete; pause queues; begin a change and take their time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncpg.transaction import Transaction
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import DomainError
from task_service.domain.principals import ANONYMOUS
from task_service.domain.priorities import BY_RANK
from task_service.domain.statuses import Status
from task_service.queue import entries
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.services import queues, tasks
from task_service.services.statistics import summarize
from task_service.services.tasks import Change
from tests.support.queue_model.model import Task
from tests.support.queue_model.stage import Stage
from tests.support.queue_model.steps import Players, happens

MOST_OPEN = 4
QUEUES = st.sampled_from("ab")
STATUSES = st.sampled_from(
    [Status.CANCELLED, Status.PENDING, Status.COMPLETED, Status.PENDING, Status.IN_PROGRESS]
)
CHANGES = st.sampled_from([
    ("queue", "a"), ("queue", "b"), ("priority", 0), ("priority", 2), ("max_attempts", 1), ("max_attempts", 3),
    ("handler", None), ("handler", "noop"),
])  # fmt: skip
CHANGE = Change(ANONYMOUS)


class People(Players):
    """Everybody who uses the API."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.seen: list[tuple[int, Transaction]] = []

    def teardown(self) -> None:
        """Leave no transaction open."""
        for task in self.looked_at():
            self.look_away(task)
        super().teardown()

    # -- tasks --
    def queues_for_more(self) -> str:
        """Where tasks may be added."""
        return (
            "ab"
            if sum(task.row is not None for task in self.model.tasks.values()) < MOST_OPEN
            else ""
        )

    @happens(
        6,
        queue=queues_for_more,
        priority=st.sampled_from([2, 0]),
        max_attempts=st.integers(1, 3),
        hours=st.sampled_from([None, -1, None, 1]),
    )
    def create(self, queue: str, priority: int, max_attempts: int, hours: int | None) -> None:
        """A task that is due so many hours from now."""
        new = NewTask(
            title="a task", handler="noop", queue=queue, priority=BY_RANK[priority], max_attempts=max_attempts,
            run_at=None if hours is None else datetime.now(UTC) + timedelta(hours=hours),
        )  # fmt: skip
        context = self.stage.context
        created = self.run(context.write(lambda c: tasks.create_task(context, c, new, ANONYMOUS)))
        self.names[created.task.id] = len(self.tasks)
        self.tasks.append(created.task.id)
        self.model.create(Task(queue, priority, max_attempts, later=hours == 1))

    @happens(3, task=Players.unlocked, status=STATUSES)
    def set_status(self, task: int, status: Status) -> None:
        """Cancel it, run it again, do it oneself."""
        self._act(
            lambda c: tasks.set_status(self.stage.context, c, self.tasks[task], status, CHANGE),
            lambda: self.model.set_status(task, status),
        )

    @happens(task=Players.unlocked, change=CHANGES)
    def change(self, task: int, change: tuple[str, Any]) -> None:
        column, value = change
        wanted = TaskChange(**{column: BY_RANK[value] if column == "priority" else value})
        self._act(
            lambda c: tasks.change_task(self.stage.context, c, self.tasks[task], wanted, CHANGE),
            lambda: self.model.change(task, column, value),
        )

    @happens(task=Players.unlocked)
    def delete(self, task: int) -> None:
        self._act(
            lambda c: tasks.remove_task(self.stage.context, c, self.tasks[task], CHANGE),
            lambda: self.model.delete(task),
        )

    @happens(task=Players.unlocked)
    def erase(self, task: int) -> None:
        self._act(
            lambda c: tasks.remove_task(self.stage.context, c, self.tasks[task], CHANGE, hard=True),
            lambda: self.model.erase(task),
        )

    @happens(2, task=Players.unlocked)
    def ask_in_vain(self, task: int) -> None:
        """The queue itself refuses what the API would not ask of it: to cancel what waits, to change what is held."""
        person, task_id, known = self.stage.person, self.tasks[task], self.model.tasks[task]
        if known.held:
            entry = entries.Entry(task_id, "b", 0, None, 3, None, "noop")
            assert self.run(entries.withdraw(person, task_id)) is None
            assert not self.run(
                entries.update(person, entry, self.stage.context.wakeups, anew=True)
            )
        else:
            assert self.run(entries.request_cancel(person, task_id)) is None

    def _act(self, act: Callable[[AsyncConnection], Any], expect: Callable[[], None]) -> None:
        """The product refuses what the model refuses, and for the same reason."""
        expected = _refusal(expect)
        found = _refusal(lambda: self.run(self.stage.context.write(act)))
        assert found is expected, f"expected {expected}, found {found}"

    # -- a change that takes its time --
    def not_looked_at(self) -> list[int]:
        """Tasks that a person may look at."""
        return [] if self.seen else self.unlocked()

    def looked_at(self) -> list[int]:
        """The task whose change has begun."""
        return [task for task, _ in self.seen]

    @happens(task=not_looked_at)
    def look(self, task: int) -> None:
        """Lock its row: everybody who may skip it does."""
        person, row = self.stage.person, self.model.tasks[task].row
        transaction = person.transaction()
        self.run(transaction.start())
        self.seen.append((task, transaction))
        self.model.locked.add(task)
        found = self.run(entries.lock(person, self.tasks[task]))
        assert (found and (found.fence, found.attempt, found.state)) == (
            row and (row.fence, row.attempt, row.state)
        )

    @happens(2, task=looked_at)
    def look_away(self, task: int) -> None:
        [(_, transaction)] = self.seen
        self.run(transaction.commit())
        self.seen.clear()
        self.model.locked.remove(task)

    # -- queues and numbers --
    @happens(queue=QUEUES, resumes=st.sampled_from([True, False, True]))
    def pause(self, queue: str, resumes: bool) -> None:
        """Pause or resume it."""
        context = self.stage.context

        async def act(connection: AsyncConnection) -> dict[str, Any]:
            if resumes:
                return await queues.resume(context, connection, queue, ANONYMOUS)
            return await queues.pause(connection, queue, None, ANONYMOUS)

        shown = self.run(context.write(act))
        self.model.paused = self.model.paused - {queue} if resumes else self.model.paused | {queue}
        expected = self.model.figures(queue) | {"paused": not resumes}
        assert {name: shown[name] for name in expected} == expected

    @happens()
    def read_statistics(self) -> None:
        summary = self.run(summarize(self.stage.engine))
        shown = [task.shown for task in self.model.tasks.values() if not task.deleted]
        assert (summary.total, summary.by_status) == (
            len(shown),
            {s: shown.count(s) for s in Status},
        )


def _refusal(act: Callable[[], object]) -> type[DomainError] | None:
    try:
        act()
    except DomainError as error:
        return type(error)
    return None
