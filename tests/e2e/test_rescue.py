"""Tasks of dead workers are given to the others: at once by operator or successor, else by the lease."""

from tests.e2e import losses
from tests.e2e.installation import Installation
from tests.e2e.losses import Loss, lose_a_worker, until_an_outage_is_all_that_changed
from tests.e2e.stage import CONCURRENCY, Stage
from tests.support.kube import poll


def assert_rescued_by_the_operator(demo: Installation, loss: Loss, reason: str) -> None:
    """Status and each lost task say why, and another process ran it before the lease would have ended.

    The successor of a killed process may be the first to release its tasks; the operator's reason comes after it then.
    """
    first = demo.until_ended(loss.ids)[loss.lost[0]][0]
    demo.until_status(
        "lastRescue", {"workerId": first.worker_id, "pod": loss.pod, "reason": reason}
    )
    attempts = demo.attempts(loss.ids)
    for gone, again in (attempts[task_id] for task_id in loss.lost):
        assert (gone.outcome, gone.reason, gone.pod) == ("lost", reason, loss.pod)
        assert (again.outcome, again.final) == ("completed", True)
        assert again.worker_id != gone.worker_id
        assert again.claimed_at < demo.lease_end(gone.worker_id)
    others = [attempts[task_id] for task_id in set(loss.ids) - set(loss.lost)]
    assert {(len(runs), runs[0].outcome) for runs in others} <= {(1, "completed")}


def test_tasks_of_a_killed_worker_are_run_by_the_other_one(demo: Installation) -> None:
    loss = lose_a_worker(demo, losses.kill)
    assert_rescued_by_the_operator(demo, loss, "crash")


def test_tasks_of_a_stopped_and_force_deleted_pod_are_run_by_the_other_one(
    demo: Installation,
) -> None:
    loss = lose_a_worker(demo, losses.stop_and_delete)
    assert_rescued_by_the_operator(demo, loss, "deleted")


def test_a_task_that_is_killed_for_its_memory_fails_and_its_neighbours_go_on(
    demo: Installation,
) -> None:
    neighbours = demo.create(CONCURRENCY // 2, "sleep", {"seconds": losses.TASK_SECONDS})
    demo.until_running(neighbours)
    (hog,) = demo.create(1, "hog", {"mebibytes": 400, "seconds": 60}, max_attempts=1)
    death = demo.until_ended([hog, *neighbours])[hog][-1]
    demo.until_status("lastRescue", {"workerId": death.worker_id, "reason": "oom"})
    attempts = demo.attempts([hog, *neighbours])
    # More than one only if the successor was first: it cannot know why, and what is not known does not count.
    deaths = attempts.pop(hog)
    assert [(run.outcome, run.reason) for run in deaths] == [("lost", "oom")] * len(deaths)
    assert deaths[-1].final
    assert len(deaths) <= 3
    assert demo.http.get(f"/api/v1/tasks/{hog}").json()["status"] == "failed"
    assert {runs[-1].outcome for runs in attempts.values()} == {"completed"}
    lost = [run for runs in attempts.values() for run in runs[:-1]]
    assert {(run.outcome, run.reason, run.pod) for run in lost} <= {("lost", "oom", death.pod)}
    (status,) = demo.kube.get("pod", death.pod)["status"]["containerStatuses"]
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"


def test_the_successor_of_a_killed_worker_releases_its_tasks_and_the_operator_says_why_when_it_is_back(
    stage: Stage, demo: Installation
) -> None:
    with stage.operator_stopped():
        loss = lose_a_worker(demo, losses.kill)
        attempts = demo.until_ended(loss.ids)
        for gone, again in (attempts[task_id] for task_id in loss.lost):
            assert (gone.outcome, gone.reason, gone.pod) == ("lost", "unknown", loss.pod)
            assert again.outcome == "completed"
    assert_rescued_by_the_operator(demo, loss, "crash")


def test_without_the_operator_the_lease_releases_the_tasks_of_a_stopped_worker_and_what_it_does_later_is_nothing(
    stage: Stage, demo: Installation
) -> None:
    with stage.operator_stopped():
        loss = lose_a_worker(demo, losses.stop, "side_effect")
        try:
            attempts = demo.until_ended(loss.ids)
        finally:
            losses.resume(demo, loss.pod)
        for gone, again in (attempts[task_id] for task_id in loss.lost):
            assert (gone.outcome, gone.reason, gone.pod) == ("lost", "unknown", loss.pod)
            assert again.claimed_at >= demo.lease_end(gone.worker_id)
            assert (again.outcome, again.final, again.pod != loss.pod) == ("completed", True, True)

        def discarded() -> bool:
            return demo.metric(loss.pod, "task_service_claims_lost_total") >= len(loss.lost)

        poll("the lost claims are counted", discarded)
        demo.until_workers()
        until_an_outage_is_all_that_changed(demo, attempts)
        assert set(map(tuple, demo.effects(loss.lost).values())) == {("begin", "begin", "end")}
