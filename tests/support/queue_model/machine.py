"""Histories: which steps follow each other, what must hold after each, and how all end."""

import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue.counters import fold
from tests.support.invariants import check_invariants
from tests.support.queue_model.people import People
from tests.support.queue_model.stage import Stage
from tests.support.queue_model.steps import Step, happens, steps
from tests.support.queue_model.workers import Workers

STEPS = 80
ROUND = 9
"""Histories of one seed. Of ten or more hypothesis would spend most on short ones and on variations of others."""
EARLIEST_END = 60
"""The step from which on a history may be brought to its end."""
PASS_TIME = """
    WITH own AS (UPDATE tasks SET run_at = clock_timestamp() WHERE run_at > clock_timestamp())
    UPDATE queue SET run_at = clock_timestamp() WHERE run_at > clock_timestamp() AND task_id <> ALL ($1::uuid[])
"""


class QueueMachine(Workers, People):
    """One history."""

    @initialize(tasks=st.lists(st.integers(1, 3), min_size=2, max_size=4), losses=st.integers(0, 2))
    def begin(self, tasks: list[int], losses: int) -> None:
        """Tasks with so many attempts each, of which some have been lost so often, and two workers."""
        for n, max_attempts in enumerate(tasks):
            self.create("ab"[n % 2], priority=2, max_attempts=max_attempts, hours=None)
        for worker in range(losses):
            self.register(slot=2, queues="ab")
            self.claim(worker, limit=3, started=True, heard=0)
            self.rescue(worker, Reason.UNKNOWN)
        self.register(slot=0, queues="ab")
        self.register(slot=1, queues="ba")

    @rule(step=st.runner().flatmap(steps))
    def then(self, step: Step) -> None:
        """One of all steps: hypothesis would make each as likely as any other, and leave half of them out."""
        getattr(self, step.name)(**step.given)

    @happens(3)
    def pass_time(self) -> None:
        """What was to come later is due."""
        self.run(self.stage.watcher.execute(PASS_TIME, [self.tasks[n] for n in self.model.locked]))
        self.model.pass_time()

    @happens()
    def fold(self) -> None:
        """The numbers are added up: the invariants tell whether they are still right."""
        self.run(fold(self.stage.operator))

    def lasts(self) -> list[Reason]:
        """For which reason all workers may be lost now."""
        return [Reason.ROLLOUT] if self.model.now > EARLIEST_END else []

    @happens(reason=lasts)
    def all_ends(self, reason: Reason) -> None:
        """Whatever has happened: when all workers are lost, another one can run every task to its end."""
        self.teardown()
        for queue in "ab":
            self.pause(queue, resumes=True)
        for worker in self.model.workers:
            self.rescue(worker, reason)
        self.pass_time()
        self.register(0, "ab")
        last = len(self.workers) - 1
        while self.model.claimable(last) or self.model.claimable(last, alone=True):
            self.claim(last, limit=3, started=True, heard=0)
            self.claim_alone(last)
            self.finish((last, sorted(self.model.held_by(last))), Outcome.COMPLETED)
        assert not self.run(self.stage.watcher.fetchval("SELECT count(*) FROM queue"))

    @invariant()
    def the_database_agrees(self) -> None:
        """The tables are the model's, and the invariants hold whatever the model says."""
        self.model.now += 1
        found = self.run(self.stage.tables(self.names))
        for table, expected in self.model.tables().items():
            rows = {
                key: (found[table].get(key), expected.get(key))
                for key in found[table].keys() | expected.keys()
            }
            wrong = {key: pair for key, pair in rows.items() if pair[0] != pair[1]}
            assert not wrong, f"{table}, found and expected: {wrong}"
        self.run(check_invariants(self.stage.watcher))


def play(stage: Stage, number: int, *, shrink: bool = True) -> None:
    """Play `ROUND` histories, always the same ones for one number.

    Raises AssertionError with the shortest history that fails (`shrink` false: with the first one).
    """

    @seed(number)
    def machine() -> QueueMachine:
        return QueueMachine(stage)

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
