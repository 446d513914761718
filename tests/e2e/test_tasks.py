"""An applied TaskService becomes Ready and runs tasks."""

from tests.support.e2e.installation import Installation

TASKS = 200


def test_kubectl_shows_a_ready_task_service(demo: Installation) -> None:
    header, row = demo.kube.run("get", "taskservices").splitlines()
    columns = dict(zip(header.split(), row.split(), strict=True))
    assert columns["NAME"] == "demo"
    assert (columns["READY"], columns["REASON"]) == ("True", "Ready")
    assert (columns["API"], columns["WORKERS"]) == ("2", "2")


def test_both_workers_complete_two_hundred_tasks_once(demo: Installation) -> None:
    conversations = [{"body": {"text": "hello"}}, {"body": {"text": "again"}}]
    ids = demo.create(TASKS, "conversations", conversations=conversations)
    attempts = demo.until_ended(ids)
    assert {len(runs) for runs in attempts.values()} == {1}
    assert {run.outcome for runs in attempts.values() for run in runs} == {"completed"}
    assert {run.pod for runs in attempts.values() for run in runs} == set(demo.until_workers())
    states = demo.query(
        "SELECT status, count(*) FROM conversations WHERE task_id = ANY(%s::uuid[]) GROUP BY 1", ids
    )
    assert states == [("processed", TASKS * len(conversations))]
    task = demo.http.get(f"/api/v1/tasks/{ids[0]}").json()
    assert (task["status"], task["attempt"], task["conversation_count"]) == (
        "completed",
        1,
        len(conversations),
    )
