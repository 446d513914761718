"""Steps of API users: create, change, cancel, retry and delete tasks, and pause queues."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncpg.transaction import Transaction as DriverTransaction
from hypothesis import strategies as st

from task_service.domain.errors import DomainError
from task_service.domain.principals import ANONYMOUS
from task_service.domain.priorities import BY_RANK
from task_service.domain.statuses import Status
from task_service.queue import entries
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.services import queues, tasks
from task_service.services.statistics import summarize
from task_service.services.transactions import Transaction
from tests.support.queue_model.model_rows import Task
from tests.support.queue_model.real_queue import RealQueue
from tests.support.queue_model.steps import ModelMachine, step

MAX_OPEN_TASKS = 4
QUEUES = st.sampled_from("ab")
STATUSES = st.sampled_from(
    [Status.CANCELLED, Status.PENDING, Status.COMPLETED, Status.PENDING, Status.IN_PROGRESS]
)
CHANGES = st.sampled_from(
    [
        ("queue", "a"),
        ("queue", "b"),
        ("priority", 0),
        ("priority", 2),
        ("max_attempts", 1),
        ("max_attempts", 3),
        ("handler", None),
        ("handler", "noop"),
    ]
)


class Users(ModelMachine):
    """Steps of API users."""

    def __init__(self, real_queue: RealQueue) -> None:
        super().__init__(real_queue)
        self.row_locks: list[tuple[int, DriverTransaction]] = []

    def teardown(self) -> None:
        """Close all open transactions."""
        for task in self.locked_by_user():
            self.unlock_row(task)
        super().teardown()

    # -- tasks --
    def queues_for_new_tasks(self) -> str:
        """Return the queues to which tasks may be added."""
        open_tasks = sum(task.row is not None for task in self.model.tasks.values())
        return "ab" if open_tasks < MAX_OPEN_TASKS else ""

    @step(
        6,
        queue=queues_for_new_tasks,
        priority=st.sampled_from([2, 0]),
        max_attempts=st.integers(1, 3),
        hours=st.sampled_from([None, -1, None, 1]),
    )
    def create(self, queue: str, priority: int, max_attempts: int, hours: int | None) -> None:
        """Create a task that is due in this many hours."""
        new = NewTask(
            title="a task",
            handler="noop",
            queue=queue,
            priority=BY_RANK[priority],
            max_attempts=max_attempts,
            run_at=None if hours is None else datetime.now(UTC) + timedelta(hours=hours),
        )
        transactions = self.real_queue.transactions
        created = self.run(transactions.write(lambda t: tasks.create_task(t, new, ANONYMOUS)))
        self.names[created.task.id] = len(self.tasks)
        self.tasks.append(created.task.id)
        self.model.create(Task(queue, priority, max_attempts, later=hours == 1))

    @step(3, task=ModelMachine.unlocked, status=STATUSES)
    def set_status(self, task: int, status: Status) -> None:
        """Cancel, retry or complete the task."""
        self._act(
            lambda t: tasks.set_status(t, self.tasks[task], status, ANONYMOUS),
            lambda: self.model.set_status(task, status),
        )

    @step(task=ModelMachine.unlocked, change=CHANGES)
    def change(self, task: int, change: tuple[str, Any]) -> None:
        column, value = change
        wanted = TaskChange(**{column: BY_RANK[value] if column == "priority" else value})
        self._act(
            lambda t: tasks.change_task(t, self.tasks[task], wanted, ANONYMOUS),
            lambda: self.model.change(task, column, value),
        )

    @step(task=ModelMachine.unlocked)
    def delete(self, task: int) -> None:
        self._act(
            lambda t: tasks.remove_task(t, self.tasks[task], ANONYMOUS),
            lambda: self.model.delete(task),
        )

    @step(task=ModelMachine.unlocked)
    def erase(self, task: int) -> None:
        self._act(
            lambda t: tasks.remove_task(t, self.tasks[task], ANONYMOUS, hard=True),
            lambda: self.model.erase(task),
        )

    @step(2, task=ModelMachine.unlocked)
    def make_invalid_request(self, task: int) -> None:
        """Check that the queue refuses to cancel a waiting task and to change a running one."""
        connection, task_id, known = (
            self.real_queue.user_connection,
            self.tasks[task],
            self.model.tasks[task],
        )
        if known.held:
            entry = entries.Entry(task_id, "b", 0, None, 3, None, "noop")
            assert self.run(entries.withdraw(connection, task_id)) is None
            assert not self.run(
                entries.update(connection, entry, self.real_queue.transactions.wakeups, reset=True)
            )
        else:
            assert self.run(entries.request_cancel(connection, task_id)) is None

    def _act(self, act: Callable[[Transaction], Any], expect: Callable[[], None]) -> None:
        """Check that the service raises the same error as the model."""
        expected = _error_of(expect)
        found = _error_of(lambda: self.run(self.real_queue.transactions.write(act)))
        assert found is expected, f"expected {expected}, found {found}"

    # -- row locks of open transactions --
    def lockable(self) -> list[int]:
        """Return the tasks whose rows a user may lock."""
        return [] if self.row_locks else self.unlocked()

    def locked_by_user(self) -> list[int]:
        """Return the task whose row a user has locked."""
        return [task for task, _ in self.row_locks]

    @step(task=lockable)
    def lock_row(self, task: int) -> None:
        """Lock the task's row, so that others skip it."""
        connection, row = self.real_queue.user_connection, self.model.tasks[task].row
        transaction = connection.transaction()
        self.run(transaction.start())
        self.row_locks.append((task, transaction))
        self.model.locked.add(task)
        entry = self.run(entries.lock(connection, self.tasks[task]))
        assert (entry and (entry.fence, entry.attempt, entry.state)) == (
            row and (row.fence, row.attempt, row.state)
        )

    @step(2, task=locked_by_user)
    def unlock_row(self, task: int) -> None:
        [(_, transaction)] = self.row_locks
        self.run(transaction.commit())
        self.row_locks.clear()
        self.model.locked.remove(task)

    # -- queues and statistics --
    @step(queue=QUEUES, resumes=st.sampled_from([True, False, True]))
    def pause(self, queue: str, resumes: bool) -> None:
        """Pause or resume the queue."""

        async def act(transaction: Transaction) -> dict[str, Any]:
            if resumes:
                return await queues.resume(transaction, queue, ANONYMOUS)
            return await queues.pause(transaction, queue, None, ANONYMOUS)

        response = self.run(self.real_queue.transactions.write(act))
        self.model.paused = self.model.paused - {queue} if resumes else self.model.paused | {queue}
        expected = self.model.figures(queue) | {"paused": not resumes}
        assert {name: response[name] for name in expected} == expected

    @step()
    def read_statistics(self) -> None:
        summary = self.run(summarize(self.real_queue.transactions))
        statuses = [task.visible_status for task in self.model.tasks.values() if not task.deleted]
        assert (summary.total, summary.by_status) == (
            len(statuses),
            {s: statuses.count(s) for s in Status},
        )


def _error_of(act: Callable[[], object]) -> type[DomainError] | None:
    try:
        act()
    except DomainError as error:
        return type(error)
    return None
