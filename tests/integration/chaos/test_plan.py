"""Faults and tasks of a chaos run are determined by the seed."""

from tests.chaos import plan, tasks
from tests.chaos.plan import KINDS, SEATS


def test_seed_determines_faults_and_tasks() -> None:
    assert plan.draw(1, 50, 3.0) == plan.draw(1, 50, 3.0) != plan.draw(2, 50, 3.0)
    assert tasks.draw(1, 1, 50) == tasks.draw(1, 1, 50) != tasks.draw(2, 1, 50)


def test_every_selected_kind_is_drawn_and_no_other() -> None:
    assert {fault.kind for fault in plan.draw(1, len(KINDS), 3.0)} == set(KINDS)
    assert {fault.kind for fault in plan.draw(1, 30, 3.0, ["kill", "stall"])} == {"kill", "stall"}


def test_proxy_faults_affect_only_workers_with_a_proxy() -> None:
    for fault in plan.draw(1, 200, 3.0):
        assert fault.seat in SEATS.get(fault.kind, range(6))


def test_tasks_of_several_batches_are_numbered_consecutively() -> None:
    titles = [planned_task.title for first in (1, 4) for planned_task in tasks.draw(1, first, 3)]
    assert titles == [f"chaos {number}" for number in range(1, 7)]
