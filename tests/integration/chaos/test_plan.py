"""The faults and tasks of a chaos run: the same ones for the same seed."""

from tests.chaos import plan, tasks
from tests.chaos.plan import KINDS, SEATS


def test_a_seed_always_draws_the_same_faults_and_tasks_and_another_one_others() -> None:
    assert plan.draw(1, 50, 3.0) == plan.draw(1, 50, 3.0) != plan.draw(2, 50, 3.0)
    assert tasks.draw(1, 1, 50) == tasks.draw(1, 1, 50) != tasks.draw(2, 1, 50)


def test_every_kind_is_drawn_at_least_once_and_no_other_one() -> None:
    assert {fault.kind for fault in plan.draw(1, len(KINDS), 3.0)} == set(KINDS)
    assert {fault.kind for fault in plan.draw(1, 30, 3.0, ["kill", "deaf"])} == {"kill", "deaf"}


def test_what_a_proxy_does_is_done_to_workers_that_have_one() -> None:
    for fault in plan.draw(1, 200, 3.0):
        assert fault.seat in SEATS.get(fault.kind, range(6))


def test_tasks_of_several_batches_are_numbered_on() -> None:
    titles = [draft.title for first in (1, 4) for draft in tasks.draw(1, first, 3)]
    assert titles == [f"chaos {number}" for number in range(1, 7)]
