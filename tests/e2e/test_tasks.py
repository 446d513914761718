"""A TaskService becomes Ready by `kubectl apply` alone, and does its job."""

from tests.e2e.installation import Installation

TASKS = 200


def test_an_applied_task_service_becomes_ready_and_kubectl_tells(demo: Installation) -> None:
    header, row = demo.kube.run("get", "taskservices").splitlines()
    told = dict(zip(header.split(), row.split(), strict=True))
    assert told["NAME"] == "demo"
    assert (told["READY"], told["REASON"]) == ("True", "Ready")
    assert (told["API"], told["WORKERS"]) == ("2", "2")


def test_two_hundred_tasks_are_completed_once_each_by_both_workers(demo: Installation) -> None:
    talk = [{"body": {"text": "hello"}}, {"body": {"text": "again"}}]
    ids = demo.create(TASKS, "conversations", conversations=talk)
    attempts = demo.until_ended(ids)
    assert {len(runs) for runs in attempts.values()} == {1}
    assert {run.outcome for runs in attempts.values() for run in runs} == {"completed"}
    assert {run.pod for runs in attempts.values() for run in runs} == set(demo.until_workers())
    states = demo.query(
        "SELECT status, count(*) FROM conversations WHERE task_id = ANY(%s::uuid[]) GROUP BY 1", ids
    )
    assert states == [("processed", TASKS * len(talk))]
    task = demo.http.get(f"/api/v1/tasks/{ids[0]}").json()
    assert (task["status"], task["attempt"], task["conversation_count"]) == (
        "completed",
        1,
        len(talk),
    )
