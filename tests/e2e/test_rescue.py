"""Rescue of tasks of lost workers by the operator, the successor or the lease."""

from tests.support.e2e import worker_loss
from tests.support.e2e.environment import CONCURRENCY, Environment
from tests.support.e2e.installation import Installation
from tests.support.e2e.worker_loss import Loss, lose_a_worker, wait_for_outage_report
from tests.support.kube import poll


def check_rescue_by_operator(demo: Installation, loss: Loss, reason: str) -> None:
    """Check the reason in the status and in each lost task, which ran again before the lease ended.

    If the successor of a killed process released the tasks first, the operator adds its reason
    afterwards.
    """
    first = demo.until_ended(loss.ids)[loss.lost[0]][0]
    demo.until_status(
        "lastRescue", {"workerId": first.worker_id, "pod": loss.pod, "reason": reason}
    )
    attempts = demo.attempts(loss.ids)
    for lost, retry in (attempts[task_id] for task_id in loss.lost):
        assert (lost.outcome, lost.reason, lost.pod) == ("lost", reason, loss.pod)
        assert (retry.outcome, retry.final) == ("completed", True)
        assert retry.worker_id != lost.worker_id
        assert retry.claimed_at < demo.lease_end(lost.worker_id)
    others = [attempts[task_id] for task_id in set(loss.ids) - set(loss.lost)]
    assert {(len(runs), runs[0].outcome) for runs in others} <= {(1, "completed")}


def test_operator_releases_tasks_of_a_killed_worker(demo: Installation) -> None:
    loss = lose_a_worker(demo, worker_loss.kill)
    check_rescue_by_operator(demo, loss, "crash")


def test_operator_releases_tasks_of_a_stopped_and_deleted_pod(
    demo: Installation,
) -> None:
    loss = lose_a_worker(demo, worker_loss.stop_and_delete)
    check_rescue_by_operator(demo, loss, "deleted")


def test_task_killed_for_its_memory_fails_and_other_tasks_complete(
    demo: Installation,
) -> None:
    neighbours = demo.create(CONCURRENCY // 2, "sleep", {"seconds": worker_loss.TASK_SECONDS})
    demo.until_running(neighbours)
    (hog,) = demo.create(1, "hog", {"mebibytes": 400, "seconds": 60}, max_attempts=1)
    death = demo.until_ended([hog, *neighbours])[hog][-1]
    demo.until_status("lastRescue", {"workerId": death.worker_id, "reason": "oom"})
    attempts = demo.attempts([hog, *neighbours])
    # Several losses happen only if the successor was first: an unknown reason does not count.
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


def test_successor_releases_tasks_and_the_operator_adds_the_reason_later(
    environment: Environment, demo: Installation
) -> None:
    with environment.operator_stopped():
        loss = lose_a_worker(demo, worker_loss.kill)
        attempts = demo.until_ended(loss.ids)
        for lost, retry in (attempts[task_id] for task_id in loss.lost):
            assert (lost.outcome, lost.reason, lost.pod) == ("lost", "unknown", loss.pod)
            assert retry.outcome == "completed"
    check_rescue_by_operator(demo, loss, "crash")


def test_lease_releases_tasks_of_a_stopped_worker_without_the_operator(
    environment: Environment, demo: Installation
) -> None:
    with environment.operator_stopped():
        loss = lose_a_worker(demo, worker_loss.stop, "side_effect")
        try:
            attempts = demo.until_ended(loss.ids)
        finally:
            worker_loss.resume(demo, loss.pod)
        for lost, retry in (attempts[task_id] for task_id in loss.lost):
            assert (lost.outcome, lost.reason, lost.pod) == ("lost", "unknown", loss.pod)
            assert retry.claimed_at >= demo.lease_end(lost.worker_id)
            assert (retry.outcome, retry.final, retry.pod != loss.pod) == ("completed", True, True)

        def are_counted() -> bool:
            return demo.metric(loss.pod, "task_service_claims_lost_total") >= len(loss.lost)

        poll("the metric of lost claims", are_counted)
        demo.until_workers()
        wait_for_outage_report(demo, attempts)
        assert set(map(tuple, demo.effects(loss.lost).values())) == {("begin", "begin", "end")}
