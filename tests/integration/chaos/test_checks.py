"""The judge of the chaos run is judged: it finds nothing wrong with a good history, and in each bad one what is."""

import asyncpg
import pytest
import pytest_asyncio

from tests.chaos.checks import CHECKS, find_broken
from tests.chaos.evidence import CREATE

pytestmark = pytest.mark.asyncio

FIRST, SECOND = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
ONE, TWO, THREE = (f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2, 3))
GOOD = f"""
CREATE FUNCTION at(seconds float8) RETURNS timestamptz
LANGUAGE sql RETURN timestamptz '2030-01-01' + make_interval(secs => seconds);

-- The first worker is stopped while it runs task 1, and its lease ends; the second one runs that again, and all others.
INSERT INTO workers (
    id, state, host, slot, version, queues, concurrency, lease_seconds, process_started_at, registered_at,
    heartbeat_at, dead_at, dead_reason, released_at
) VALUES
    ('{FIRST}', 'dead', 'h', 'a', '1', '{{}}', 1, 2, at(0), at(1), at(10), at(13), 'unknown', at(13.1)),
    ('{SECOND}', 'dead', 'h', 'b', '1', '{{}}', 1, 2, at(0), at(1), at(59), at(60), 'shutdown', at(60));
INSERT INTO tasks (id, title, handler, max_attempts) VALUES
    ('{ONE}', 'chaos 1', 'complete', 5), ('{TWO}', 'chaos 2', 'quick', 5), ('{THREE}', 'chaos 3', 'write', 5);
INSERT INTO runs (task_id, fence, attempt, worker_id, claimed_at, finished_at, outcome, reason, final) VALUES
    ('{ONE}', 1, 1, '{FIRST}', at(10.5), at(13.05), 'lost', 'unknown', false),
    ('{ONE}', 2, 1, '{SECOND}', at(13.2), at(14), 'completed', NULL, true),
    ('{TWO}', 1, 1, '{SECOND}', at(20), at(20.1), 'completed', NULL, true),
    ('{THREE}', 1, 1, '{SECOND}', at(30), at(31), 'completed', NULL, true);
UPDATE schedules SET created_at = at(50), next_run_at = at(180) WHERE name = 'chaos';
INSERT INTO tasks (id, title, status, payload, created_at) VALUES
    (gen_random_uuid(), 'scheduled', 'pending', '{{"scheduled_for": "2030-01-01T00:01:00Z"}}', at(60.5)),
    (gen_random_uuid(), 'scheduled', 'pending', '{{"scheduled_for": "2030-01-01T00:02:00Z"}}', at(121));
INSERT INTO effects VALUES ('{ONE}', 2, '{SECOND}', at(13.9)), ('{THREE}', 1, '{SECOND}', at(30.5));
INSERT INTO chaos_plan VALUES (3);
INSERT INTO chaos_processes VALUES (0, 0, at(61)), (1, 1, at(61));
INSERT INTO chaos_notes VALUES
    (0, 'start', '{ONE}', 1, '{FIRST}', at(10.6)), (0, 'end', '{ONE}', 1, '{FIRST}', at(15)),
    (1, 'start', '{ONE}', 2, '{SECOND}', at(13.3)), (1, 'end', '{ONE}', 2, '{SECOND}', at(13.95)),
    (1, 'start', '{TWO}', 1, '{SECOND}', at(20.01)), (1, 'end', '{TWO}', 1, '{SECOND}', at(20.05));
INSERT INTO chaos_faults VALUES ('stop', 0, at(10.8), at(14.9), true);
"""

NOT_CREATED_ONCE = "tasks that were not created exactly once"
NOT_RUN_ONCE = "times of the schedule that were not run exactly once, or too early"
LEFT = "tasks left in the queue"
NOT_ENDED_ONCE = "tasks that did not end exactly once"
GAP = "tasks with a claim that has no end, or an end that has no claim"
OVERTAKEN = "ends under a fence below another one"
CLAIMS = "claims of one task that overlap"
REPORTED_BY_THE_DEAD = "ends reported by a worker whose tasks had been released"
TAKEN = "tasks taken from a worker that lived, or was never registered"
EARLY_DEATH = "workers declared dead before their lease was over"
STRAY_EFFECT = "effects outside of a claim that was held"
EFFECT_NOT_ONCE = "effects that were not once with their completion"
NO_EFFECT = "completions without the effect under their fence"
WRONG_END = "ends that do not fit the handler"
NO_CLAIM = "runs without a claim"
LATE = "runs that started after their claim was lost, in a process that was not paused"
OVERLAP = "runs that overlap although the older one was not paused or cut off"
ISOLATED_OVERLAP = "runs of isolated handlers that overlap, whatever the cause"
WORKER_LEFT = "workers that are not dead and released"
NUMBERS = "kept numbers that do not equal a count"

ENTRY = f"SELECT id, 'default', 2, now(), 5, handler FROM tasks WHERE id = '{TWO}'"
BAD = {
    "a task is missing": ("UPDATE chaos_plan SET tasks = 4", {NOT_CREATED_ONCE}),
    "a task is there twice": (
        "INSERT INTO tasks (id, title, status) VALUES (gen_random_uuid(), 'chaos 2', 'pending')",
        {NOT_CREATED_ONCE},
    ),
    "a time of the schedule was left out": (
        "DELETE FROM tasks WHERE created_at = at(60.5)",
        {NOT_RUN_ONCE},
    ),
    "the schedule's last time was left out": (
        "DELETE FROM tasks WHERE created_at = at(121)",
        {NOT_RUN_ONCE},
    ),
    "a time of the schedule was run too early": (
        "UPDATE tasks SET created_at = at(59) WHERE created_at = at(60.5)",
        {NOT_RUN_ONCE},
    ),
    "a time of the schedule was run twice": (
        """UPDATE tasks SET payload = '{"scheduled_for": "2030-01-01T00:01:00Z"}' WHERE created_at = at(121)""",
        {NOT_RUN_ONCE},
    ),
    "a task is stuck": (
        f"INSERT INTO queue (task_id, queue, priority, run_at, max_attempts, handler) {ENTRY}",
        {LEFT},
    ),
    "a task has no end": (
        f"UPDATE runs SET final = false WHERE task_id = '{TWO}'",
        {NOT_ENDED_ONCE},
    ),
    "a task has two ends": (
        f"UPDATE runs SET final = true WHERE task_id = '{ONE}'",
        {NOT_ENDED_ONCE, OVERTAKEN, EFFECT_NOT_ONCE, WRONG_END},
    ),
    "a worker that had lost the claim ended the task": (
        f"UPDATE runs SET final = (fence = 1), outcome = 'completed' WHERE task_id = '{ONE}'",
        {OVERTAKEN, EFFECT_NOT_ONCE},
    ),
    "a claim left no run": (
        f"UPDATE runs SET fence = 2 WHERE task_id = '{TWO}'; UPDATE chaos_notes SET fence = 2 WHERE task_id = '{TWO}'",
        {GAP},
    ),
    "a task was claimed while it was held": (
        f"UPDATE runs SET claimed_at = at(13) WHERE task_id = '{ONE}' AND fence = 2",
        {CLAIMS},
    ),
    "a worker reported after its tasks were released": (
        f"UPDATE workers SET released_at = at(25) WHERE id = '{SECOND}'",
        {REPORTED_BY_THE_DEAD},
    ),
    "a task was taken before its worker was dead": (
        f"UPDATE workers SET dead_at = at(13.07) WHERE id = '{FIRST}'",
        {TAKEN},
    ),
    "a task was held by nobody": (f"DELETE FROM workers WHERE id = '{SECOND}'", {TAKEN}),
    "a worker was declared dead within its lease": (
        f"UPDATE workers SET heartbeat_at = at(11.5) WHERE id = '{FIRST}'",
        {EARLY_DEATH},
    ),
    "an effect is another worker's": (
        f"UPDATE effects SET worker_id = '{FIRST}' WHERE task_id = '{THREE}'",
        {STRAY_EFFECT},
    ),
    "an effect came after the end": (
        f"UPDATE effects SET at = at(31.5) WHERE task_id = '{THREE}'",
        {STRAY_EFFECT},
    ),
    "an effect came under an older fence after a newer one's": (
        f"INSERT INTO effects VALUES ('{ONE}', 1, '{FIRST}', at(14.5))",
        {STRAY_EFFECT, EFFECT_NOT_ONCE},
    ),
    "an effect is there twice": (
        f"INSERT INTO effects VALUES ('{ONE}', 2, '{SECOND}', at(13.8))",
        {EFFECT_NOT_ONCE},
    ),
    "an effect is lost though its completion is not": (
        f"DELETE FROM effects WHERE task_id = '{ONE}'",
        {EFFECT_NOT_ONCE},
    ),
    "an effect before the completion is lost": (
        f"DELETE FROM effects WHERE task_id = '{THREE}'",
        {NO_EFFECT},
    ),
    "a task failed that cannot": (
        f"UPDATE runs SET outcome = 'failed' WHERE task_id = '{TWO}'",
        {WRONG_END},
    ),
    "a task is lost for good without having been suspected": (
        f"UPDATE runs SET outcome = 'lost' WHERE task_id = '{TWO}'",
        {WRONG_END, TAKEN},
    ),
    "a handler ran that nobody had claimed": (
        f"INSERT INTO chaos_notes VALUES (1, 'start', '{TWO}', 2, '{SECOND}', at(40))",
        {NO_CLAIM},
    ),
    "a handler started after its claim was lost": (
        f"UPDATE chaos_notes SET at = at(21) WHERE task_id = '{TWO}'",
        {LATE},
    ),
    "two runs overlap, and it was another process that was stopped": (
        "UPDATE chaos_faults SET process = 1",
        {OVERLAP},
    ),
    "two runs overlap, and the fault was none that cuts off": (
        "UPDATE chaos_faults SET cuts = false",
        {OVERLAP},
    ),
    "two runs overlap, and the fault came after the loss": (
        "UPDATE chaos_faults SET began = at(13.1)",
        {OVERLAP},
    ),
    "two runs overlap, and the fault was over before the last heartbeat": (
        "UPDATE chaos_faults SET began = at(8), ended = at(9.9)",
        {OVERLAP},
    ),
    "two runs overlap, and the older one's worker lived": (
        f"UPDATE workers SET dead_at = NULL WHERE id = '{FIRST}'",
        {OVERLAP, TAKEN},
    ),
    "two isolated runs overlap": (
        f"UPDATE tasks SET handler = 'isolated' WHERE id = '{ONE}'",
        {ISOLATED_OVERLAP},
    ),
    "a worker was never released": (
        f"UPDATE workers SET released_at = NULL WHERE id = '{SECOND}'",
        {WORKER_LEFT},
    ),
    "a kept number is off by one": (
        "INSERT INTO task_deltas (dimension, value, number) VALUES ('run', 'completed', 1)",
        {NUMBERS},
    ),
}
ALSO_GOOD = {
    "as it is": "SELECT",
    "a killed process ended its runs": (
        "UPDATE chaos_processes SET ended = at(12) WHERE process = 0;"
        f"DELETE FROM chaos_notes WHERE fence = 1 AND what = 'end' AND task_id = '{ONE}';"
        "DELETE FROM chaos_faults"
    ),
    "an isolated run was killed before the next one began": (
        f"UPDATE tasks SET handler = 'isolated' WHERE id = '{ONE}';"
        f"UPDATE chaos_notes SET what = 'alive', at = at(13.2) WHERE task_id = '{ONE}' AND fence = 1 AND what = 'end'"
    ),
    "a process that was stopped in between started late": (
        f"UPDATE chaos_notes SET at = at(21) WHERE task_id = '{TWO}';"
        "INSERT INTO chaos_faults VALUES ('stop', 1, at(20.001), at(20.9), true)"
    ),
    "a successor in the same slot declared it dead": (
        f"UPDATE workers SET heartbeat_at = at(12.9), slot = 'b' WHERE id = '{FIRST}';"
        f"UPDATE workers SET registered_at = at(12.95) WHERE id = '{SECOND}'"
    ),
    "a task was put aside": (
        f"UPDATE runs SET outcome = 'lost', reason = 'unknown', error = 'Put aside: …', worker_id = '{FIRST}',"
        f" claimed_at = at(12), finished_at = at(13.05) WHERE task_id = '{TWO}';"
        f"DELETE FROM chaos_notes WHERE task_id = '{TWO}'"
    ),
}


@pytest_asyncio.fixture
async def history(connection: asyncpg.Connection) -> asyncpg.Connection:
    """A database with the history of a short run in which nothing is broken."""
    await connection.execute(CREATE)
    await connection.execute(GOOD)
    return connection


@pytest.mark.parametrize("change", ALSO_GOOD.values(), ids=ALSO_GOOD)
async def test_a_good_history_is_found_to_be_good(history: asyncpg.Connection, change: str) -> None:
    await history.execute(change)
    assert await find_broken(history) == {}


@pytest.mark.parametrize(("change", "broken"), BAD.values(), ids=BAD)
async def test_a_bad_history_is_found_to_be_bad(
    history: asyncpg.Connection, change: str, broken: set[str]
) -> None:
    await history.execute(change)
    assert set(await find_broken(history)) == broken


async def test_every_check_has_a_history_that_breaks_it() -> None:
    assert set.union(*(broken for _, broken in BAD.values())) == set(CHECKS)
