"""The gate of the migration, case by case."""

from datetime import UTC, datetime
from typing import Any

import pytest

from task_operator.migration import Failed, Migrated, Running, Start, decide, termination_message
from tests.support.kube_objects import pod, terminated

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
Object = dict[str, Any]


def job(
    *, attempt: int = 1, ended: str = "", reason: str = "BackoffLimitExceeded", at: str = "12:00:00"
) -> Object:
    """A migration Job; ended: Complete or Failed."""
    metadata = {"name": "demo-migrate-x", "annotations": {"taskservice.dev/attempt": str(attempt)}}
    when = f"2026-01-01T{at}Z"
    done = [
        {
            "type": ended,
            "status": "True",
            "reason": reason,
            "message": "the Job's own",
            "lastTransitionTime": when,
        }
    ]
    return {"metadata": metadata, "status": {"conditions": done if ended else []}}


FAILED_POD = pod(
    {
        "state": {
            "terminated": terminated(
                1, message="no such table\n", finishedAt="2026-01-01T12:00:00Z"
            )
        }
    }
)


def test_an_image_without_a_job_starts_one() -> None:
    assert decide(None, [], NOW, 10) == Start(attempt=1)


def test_a_succeeded_job_opens_the_gate() -> None:
    assert decide(job(ended="Complete"), [], NOW, 10) == Migrated()


def test_a_job_at_work_keeps_the_gate_closed_and_tells_its_trouble() -> None:
    assert decide(job(), [FAILED_POD], NOW, 10) == Running(1, "no such table")


def test_a_job_being_deleted_is_waited_for() -> None:
    deleting = job(ended="Complete")
    deleting["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert decide(deleting, [], NOW, 10) == Running(1)


def test_a_failed_job_says_what_its_pod_said() -> None:
    step = decide(job(ended="Failed", at="12:00:29"), [FAILED_POD], NOW, 10)
    assert step == Failed(1, "no such table", retry_seconds=9)


def test_a_failed_job_without_pods_says_what_the_job_says() -> None:
    step = decide(job(ended="Failed", at="12:00:29"), [], NOW, 10)
    assert isinstance(step, Failed)
    assert step.message == "the Job's own"


@pytest.mark.parametrize(("attempt", "again"), [(1, True), (2, True), (3, False)])
def test_the_pause_before_a_retry_doubles(attempt: int, again: bool) -> None:
    step = decide(job(attempt=attempt, ended="Failed"), [], NOW, 10)  # 30 s after the failure
    assert isinstance(step, Start) is again
    if isinstance(step, Start):
        assert step.attempt == attempt + 1
        assert step.failed is not None


def test_a_job_that_ran_into_its_deadline_is_retried_soon() -> None:
    step = decide(
        job(attempt=9, ended="Failed", reason="DeadlineExceeded", at="12:00:28"), [], NOW, 10
    )
    assert step == Failed(9, "the Job's own", retry_seconds=3)


def test_the_last_ending_is_the_one_that_is_told() -> None:
    first, second = (
        pod(
            {
                "state": {
                    "terminated": terminated(
                        1, message=text, finishedAt=f"2026-01-01T12:00:0{second}Z"
                    )
                }
            }
        )
        for second, text in ((1, "first"), (2, "second"))
    )
    assert termination_message([second, first]) == "second"
    assert (
        termination_message([pod({"state": {"terminated": terminated(3)}})]) == "Error: exit code 3"
    )
    assert termination_message([pod({"state": {"terminated": terminated(0)}})]) == ""
