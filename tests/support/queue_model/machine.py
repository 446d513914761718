"""Histories: sequences of steps, the checks after each step, and their ends."""

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue.counters import fold
from tests.support.invariants import check_invariants
from tests.support.queue_model.real_queue import RealQueue
from tests.support.queue_model.steps import Step, step, steps
from tests.support.queue_model.users import Users
from tests.support.queue_model.workers import Workers

STEPS = 80
ROUND = 9
"""Histories per seed; with ten or more, Hypothesis mostly varies or shortens earlier ones."""
EARLIEST_END = 60
"""First step at which a history may be brought to its end."""
MAKE_DUE = """
    WITH own AS (UPDATE tasks SET run_at = clock_timestamp() WHERE run_at > clock_timestamp())
    UPDATE queue SET run_at = clock_timestamp()
    WHERE run_at > clock_timestamp() AND task_id <> ALL ($1::uuid[])
"""


class QueueMachine(Workers, Users):
    """State machine that plays one history."""

    @initialize(tasks=st.lists(st.integers(1, 3), min_size=2, max_size=4), losses=st.integers(0, 2))
    def begin(self, tasks: list[int], losses: int) -> None:
        """Create tasks with these `max_attempts`, some already lost, and two workers."""
        for n, max_attempts in enumerate(tasks):
            self.create("ab"[n % 2], priority=2, max_attempts=max_attempts, hours=None)
        for worker in range(losses):
            self.register(slot=2, queues="ab")
            self.claim(worker, limit=3, started=True, received=0)
            self.rescue(worker, Reason.UNKNOWN)
        self.register(slot=0, queues="ab")
        self.register(slot=1, queues="ba")

    @rule(step=st.runner().flatmap(steps))
    def run_step(self, step: Step) -> None:
        """Run one step; as separate rules, half of the steps would never run."""
        getattr(self, step.name)(**step.arguments)

    @step(3)
    def pass_time(self) -> None:
        """Make all scheduled tasks due."""
        self.run(
            self.real_queue.observer.execute(MAKE_DUE, [self.tasks[n] for n in self.model.locked])
        )
        self.model.pass_time()

    @step()
    def fold(self) -> None:
        """Fold the counter deltas; the invariants check the result."""
        self.run(fold(self.real_queue.operator))

    def reasons_to_end(self) -> list[Reason]:
        """Return the reasons for which all workers may be lost now."""
        return [Reason.ROLLOUT] if self.model.now > EARLIEST_END else []

    @step(reason=reasons_to_end)
    def end_all_tasks(self, reason: Reason) -> None:
        """Lose all workers; a new one must be able to run every task to its end."""
        self.teardown()
        for queue in "ab":
            self.pause(queue, resumes=True)
        for worker in self.model.workers:
            self.rescue(worker, reason)
        self.pass_time()
        self.register(0, "ab")
        last = len(self.workers) - 1
        while self.model.claimable(last) or self.model.claimable(last, alone=True):
            self.claim(last, limit=3, started=True, received=0)
            self.claim_alone(last)
            self.finish((last, sorted(self.model.held_by(last))), Outcome.COMPLETED)
        assert not self.run(self.real_queue.observer.fetchval("SELECT count(*) FROM queue"))

    @invariant()
    def database_equals_model(self) -> None:
        """Check that the tables equal those of the model and that the invariants hold."""
        self.model.now += 1
        found = self.run(self.real_queue.tables(self.names))
        for table, expected in self.model.tables().items():
            rows = {
                key: (found[table].get(key), expected.get(key))
                for key in found[table].keys() | expected.keys()
            }
            wrong = {key: pair for key, pair in rows.items() if pair[0] != pair[1]}
            assert not wrong, f"{table}, found and expected: {wrong}"
        self.run(check_invariants(self.real_queue.observer))


def play(real_queue: RealQueue, number: int, *, shrink: bool = True) -> None:
    """Play `ROUND` histories, which are the same for the same number.

    Raises AssertionError with the shortest failing history, or with the first one if not `shrink`.
    """

    @seed(number)
    def machine() -> QueueMachine:
        return QueueMachine(real_queue)

    profile = settings(
        max_examples=ROUND,
        stateful_step_count=STEPS,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    with structlog.testing.capture_logs():
        run_state_machine_as_test(machine, settings=profile)  # type: ignore[arg-type]
