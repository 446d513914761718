"""The checks of the chaos run accept valid histories and detect each violation."""

import asyncpg
import pytest
import pytest_asyncio

from tests.chaos.checks import CHECKS, find_broken
from tests.chaos.evidence import CREATE

pytestmark = pytest.mark.asyncio

FIRST, SECOND = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
ONE, TWO, THREE = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2, 3))
VALID_HISTORY = f"""
CREATE FUNCTION at(seconds float8) RETURNS timestamptz
LANGUAGE sql RETURN timestamptz '2030-01-01' + make_interval(secs => seconds);

-- The first worker is stopped while it runs task 1, and its lease expires. The second worker runs
-- task 1 again, and all other tasks.
INSERT INTO workers (
    id, state, host, slot, version, queues, concurrency, lease_seconds, process_started_at,
    registered_at, heartbeat_at, dead_at, dead_reason, released_at
) VALUES
    (
        '{FIRST}', 'dead', 'h', 'a', '1', '{{}}', 1, 2, at(0),
        at(1), at(10), at(13), 'unknown', at(13.1)
    ),
    (
        '{SECOND}', 'dead', 'h', 'b', '1', '{{}}', 1, 2, at(0),
        at(1), at(59), at(60), 'shutdown', at(60)
    );
INSERT INTO tasks (id, title, handler, max_attempts) VALUES
    ('{ONE}', 'chaos 1', 'complete', 5),
    ('{TWO}', 'chaos 2', 'quick', 5),
    ('{THREE}', 'chaos 3', 'write', 5);
INSERT INTO runs (
    task_id, fence, attempt, worker_id, claimed_at, finished_at, outcome, reason, final
) VALUES
    ('{ONE}', 1, 1, '{FIRST}', at(10.5), at(13.05), 'lost', 'unknown', false),
    ('{ONE}', 2, 1, '{SECOND}', at(13.2), at(14), 'completed', NULL, true),
    ('{TWO}', 1, 1, '{SECOND}', at(20), at(20.1), 'completed', NULL, true),
    ('{THREE}', 1, 1, '{SECOND}', at(30), at(31), 'completed', NULL, true);
UPDATE schedules SET created_at = at(50), next_run_at = at(180) WHERE name = 'chaos';
INSERT INTO tasks (id, title, status, payload, created_at)
SELECT gen_random_uuid(), 'scheduled', 'pending', payload::jsonb, created_at
FROM (VALUES
    ('{{"scheduled_for": "2030-01-01T00:01:00Z"}}', at(60.5)),
    ('{{"scheduled_for": "2030-01-01T00:02:00Z"}}', at(121))
) AS t (payload, created_at);
INSERT INTO effects VALUES ('{ONE}', 2, '{SECOND}', at(13.9)), ('{THREE}', 1, '{SECOND}', at(30.5));
INSERT INTO chaos_plan VALUES (3);
INSERT INTO chaos_processes VALUES (0, 0, at(61)), (1, 1, at(61));
INSERT INTO chaos_events VALUES
    (0, 'start', '{ONE}', 1, '{FIRST}', at(10.6)), (0, 'end', '{ONE}', 1, '{FIRST}', at(15)),
    (1, 'start', '{ONE}', 2, '{SECOND}', at(13.3)), (1, 'end', '{ONE}', 2, '{SECOND}', at(13.95)),
    (1, 'start', '{TWO}', 1, '{SECOND}', at(20.01)), (1, 'end', '{TWO}', 1, '{SECOND}', at(20.05));
INSERT INTO chaos_faults VALUES ('stop', 0, at(10.8), at(14.9), true);
"""

NOT_CREATED_ONCE = "tasks that were not created exactly once"
NOT_RUN_ONCE = "times of the schedule that did not run exactly once, or ran too early"
LEFT_IN_QUEUE = "tasks left in the queue"
NOT_ENDED_ONCE = "tasks that did not end exactly once"
GAP = "tasks with a claim without an end, or an end without a claim"
OVERTAKEN = "final runs with a fence below another one"
CLAIMS = "overlapping claims of one task"
REPORTED_BY_THE_DEAD = "ends reported by a worker after its tasks were released"
TAKEN_FROM_LIVING = "tasks taken from a worker that was alive or never registered"
DEAD_TOO_EARLY = "workers declared dead before their lease expired"
EFFECT_OUTSIDE_CLAIM = "effects outside a valid claim"
EFFECT_NOT_ONCE = "completions in a transaction without exactly one effect"
NO_EFFECT = "completions without an effect under their fence"
WRONG_END = "outcomes that the handler cannot have"
NO_CLAIM = "runs without a claim"
STARTED_LATE = "runs that started after the loss of their claim without a stop"
OVERLAP = "overlapping runs whose older worker was not stopped or disconnected"
ISOLATED_OVERLAP = "overlapping runs of isolated handlers"
WORKER_LEFT = "workers that are not dead and released"
COUNTERS = "counters that differ from a count of the rows"

ENTRY = f"SELECT id, 'default', 2, now(), 5, handler FROM tasks WHERE id = '{TWO}'"
VIOLATIONS = {
    "a task is missing": ("UPDATE chaos_plan SET tasks = 4", {NOT_CREATED_ONCE}),
    "a task exists twice": (
        "INSERT INTO tasks (id, title, status) VALUES (gen_random_uuid(), 'chaos 2', 'pending')",
        {NOT_CREATED_ONCE},
    ),
    "a time of the schedule was skipped": (
        "DELETE FROM tasks WHERE created_at = at(60.5)",
        {NOT_RUN_ONCE},
    ),
    "the last time of the schedule was skipped": (
        "DELETE FROM tasks WHERE created_at = at(121)",
        {NOT_RUN_ONCE},
    ),
    "a time of the schedule ran too early": (
        "UPDATE tasks SET created_at = at(59) WHERE created_at = at(60.5)",
        {NOT_RUN_ONCE},
    ),
    "a time of the schedule ran twice": (
        """
        UPDATE tasks SET payload = '{"scheduled_for": "2030-01-01T00:01:00Z"}'
        WHERE created_at = at(121)
        """,
        {NOT_RUN_ONCE},
    ),
    "a task is stuck": (
        f"INSERT INTO queue (task_id, queue, priority, run_at, max_attempts, handler) {ENTRY}",
        {LEFT_IN_QUEUE},
    ),
    "a task has no end": (
        f"UPDATE runs SET final = false WHERE task_id = '{TWO}'",
        {NOT_ENDED_ONCE},
    ),
    "a task has two ends": (
        f"UPDATE runs SET final = true WHERE task_id = '{ONE}'",
        {NOT_ENDED_ONCE, OVERTAKEN, EFFECT_NOT_ONCE, WRONG_END},
    ),
    "a worker without the claim ended the task": (
        f"UPDATE runs SET final = (fence = 1), outcome = 'completed' WHERE task_id = '{ONE}'",
        {OVERTAKEN, EFFECT_NOT_ONCE},
    ),
    "a claim has no run": (
        f"""
        UPDATE runs SET fence = 2 WHERE task_id = '{TWO}';
        UPDATE chaos_events SET fence = 2 WHERE task_id = '{TWO}'
        """,
        {GAP},
    ),
    "a task was claimed while another claim was active": (
        f"UPDATE runs SET claimed_at = at(13) WHERE task_id = '{ONE}' AND fence = 2",
        {CLAIMS},
    ),
    "a worker reported after its tasks were released": (
        f"UPDATE workers SET released_at = at(25) WHERE id = '{SECOND}'",
        {REPORTED_BY_THE_DEAD},
    ),
    "a task was taken before its worker was dead": (
        f"UPDATE workers SET dead_at = at(13.07) WHERE id = '{FIRST}'",
        {TAKEN_FROM_LIVING},
    ),
    "a task was claimed by an unknown worker": (
        f"DELETE FROM workers WHERE id = '{SECOND}'",
        {TAKEN_FROM_LIVING},
    ),
    "a worker was declared dead during its lease": (
        f"UPDATE workers SET heartbeat_at = at(11.5) WHERE id = '{FIRST}'",
        {DEAD_TOO_EARLY},
    ),
    "an effect belongs to another worker": (
        f"UPDATE effects SET worker_id = '{FIRST}' WHERE task_id = '{THREE}'",
        {EFFECT_OUTSIDE_CLAIM},
    ),
    "an effect is later than the end": (
        f"UPDATE effects SET at = at(31.5) WHERE task_id = '{THREE}'",
        {EFFECT_OUTSIDE_CLAIM},
    ),
    "an effect has an older fence than an earlier effect": (
        f"INSERT INTO effects VALUES ('{ONE}', 1, '{FIRST}', at(14.5))",
        {EFFECT_OUTSIDE_CLAIM, EFFECT_NOT_ONCE},
    ),
    "an effect exists twice": (
        f"INSERT INTO effects VALUES ('{ONE}', 2, '{SECOND}', at(13.8))",
        {EFFECT_NOT_ONCE},
    ),
    "an effect of a completion in the transaction is missing": (
        f"DELETE FROM effects WHERE task_id = '{ONE}'",
        {EFFECT_NOT_ONCE},
    ),
    "an effect before the completion is missing": (
        f"DELETE FROM effects WHERE task_id = '{THREE}'",
        {NO_EFFECT},
    ),
    "a task failed although its handler cannot fail": (
        f"UPDATE runs SET outcome = 'failed' WHERE task_id = '{TWO}'",
        {WRONG_END},
    ),
    "a task is lost without having been suspected": (
        f"UPDATE runs SET outcome = 'lost' WHERE task_id = '{TWO}'",
        {WRONG_END, TAKEN_FROM_LIVING},
    ),
    "a handler ran without a claim": (
        f"INSERT INTO chaos_events VALUES (1, 'start', '{TWO}', 2, '{SECOND}', at(40))",
        {NO_CLAIM},
    ),
    "a handler started after its claim was lost": (
        f"UPDATE chaos_events SET at = at(21) WHERE task_id = '{TWO}'",
        {STARTED_LATE},
    ),
    "two runs overlap, but another process was stopped": (
        "UPDATE chaos_faults SET process = 1",
        {OVERLAP},
    ),
    "two runs overlap, but the fault cannot cause the loss of a lease": (
        "UPDATE chaos_faults SET loses_lease = false",
        {OVERLAP},
    ),
    "two runs overlap, but the fault was after the loss": (
        "UPDATE chaos_faults SET began = at(13.1)",
        {OVERLAP},
    ),
    "two runs overlap, but the fault ended before the last heartbeat": (
        "UPDATE chaos_faults SET began = at(8), ended = at(9.9)",
        {OVERLAP},
    ),
    "two runs overlap, but the older worker was alive": (
        f"UPDATE workers SET dead_at = NULL WHERE id = '{FIRST}'",
        {OVERLAP, TAKEN_FROM_LIVING},
    ),
    "two isolated runs overlap": (
        f"UPDATE tasks SET handler = 'isolated' WHERE id = '{ONE}'",
        {ISOLATED_OVERLAP},
    ),
    "a worker was never released": (
        f"UPDATE workers SET released_at = NULL WHERE id = '{SECOND}'",
        {WORKER_LEFT},
    ),
    "a counter is wrong by one": (
        "INSERT INTO task_deltas (dimension, value, number) VALUES ('run', 'completed', 1)",
        {COUNTERS},
    ),
}
VALID_VARIANTS = {
    "unchanged": "SELECT",
    "a killed process ended its runs": (
        "UPDATE chaos_processes SET ended = at(12) WHERE process = 0;"
        f"DELETE FROM chaos_events WHERE fence = 1 AND event = 'end' AND task_id = '{ONE}';"
        "DELETE FROM chaos_faults"
    ),
    "an isolated run was killed before the next one began": (
        f"UPDATE tasks SET handler = 'isolated' WHERE id = '{ONE}';"
        f"UPDATE chaos_events SET event = 'alive', at = at(13.2) "
        f"WHERE task_id = '{ONE}' AND fence = 1 AND event = 'end'"
    ),
    "a process that was stopped before the start started late": (
        f"UPDATE chaos_events SET at = at(21) WHERE task_id = '{TWO}';"
        "INSERT INTO chaos_faults VALUES ('stop', 1, at(20.001), at(20.9), true)"
    ),
    "a successor in the same slot declared the worker dead": (
        f"UPDATE workers SET heartbeat_at = at(12.9), slot = 'b' WHERE id = '{FIRST}';"
        f"UPDATE workers SET registered_at = at(12.95) WHERE id = '{SECOND}'"
    ),
    "a task was suspected of killing workers": (
        f"UPDATE runs SET outcome = 'lost', reason = 'unknown', error = 'Put aside: …',"
        f" worker_id = '{FIRST}', claimed_at = at(12), finished_at = at(13.05)"
        f" WHERE task_id = '{TWO}';"
        f"DELETE FROM chaos_events WHERE task_id = '{TWO}'"
    ),
}


@pytest_asyncio.fixture
async def history(connection: asyncpg.Connection) -> asyncpg.Connection:
    """Database with a short valid history."""
    await connection.execute(CREATE)
    await connection.execute(VALID_HISTORY)
    return connection


@pytest.mark.parametrize("change", VALID_VARIANTS.values(), ids=VALID_VARIANTS)
async def test_valid_history_passes_all_checks(history: asyncpg.Connection, change: str) -> None:
    await history.execute(change)
    assert await find_broken(history) == {}


@pytest.mark.parametrize(("change", "broken"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_violation_fails_exactly_its_checks(
    history: asyncpg.Connection, change: str, broken: set[str]
) -> None:
    await history.execute(change)
    assert set(await find_broken(history)) == broken


async def test_every_check_has_a_violation() -> None:
    assert set.union(*(broken for _, broken in VIOLATIONS.values())) == set(CHECKS)
