"""`kubectl scale` sets the number of workers; leaving workers finish or release their tasks."""

from collections.abc import Iterator

import pytest

from tests.support.e2e.installation import Installation

TASKS = 40
SECONDS = 3
UNCOUNTED_REASONS = {"scale_down", "shutdown", "drain"}


@pytest.fixture
def restore_two_workers(shared: Installation) -> Iterator[None]:
    yield
    shared.kube.run("scale", shared.target, "--replicas=2")
    shared.until_workers(2)


def test_scaling_up_and_down_loses_no_task(demo: Installation, restore_two_workers: None) -> None:
    demo.kube.run("scale", demo.target, "--replicas=4")
    demo.until_workers(4)
    ids = demo.create(TASKS, "side_effect", {"seconds": SECONDS})
    assert len(demo.until_running(ids)) > 1
    demo.kube.run("scale", demo.target, "--replicas=1")
    demo.until_workers(1)
    attempts = demo.until_ended(ids)
    for runs in attempts.values():
        assert runs[-1].outcome == "completed"
        assert {(run.outcome, run.reason in UNCOUNTED_REASONS) for run in runs[:-1]} <= {
            ("lost", True),
            ("released", True),
        }
    assert {phases.count("end") for phases in demo.effects(ids).values()} == {1}
    demo.until_status("worker", {"replicas": 1, "ready": 1})
