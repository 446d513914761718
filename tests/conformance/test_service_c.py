"""Service C: integer ids, conversations, tasks that workers run, `/health` and `/status`."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.conformance.checks import UNICODE, UNKNOWN_ID, check_json, check_problem
from tests.support.conformance.deployments import Mount, wait_until

TASK_FIELDS = {
    "id", "title", "description", "status", "created_at", "updated_at", "processed_at", "processing_instance_id",
    "conversation_count",
}  # fmt: skip
CONVERSATION_FIELDS = {
    "id",
    "task_id",
    "body",
    "status",
    "created_at",
    "updated_at",
    "processed_at",
}


@pytest.fixture
def task(client: httpx.Client, canonical: httpx.Client) -> dict[str, Any]:
    """A task with two conversations that is scheduled in the future, so that no worker runs it."""
    wanted = {
        "title": "Answer", "description": "Soon", "handler": "conversations", "run_at": "2100-01-01T00:00:00Z",
        "conversations": [{"body": {"n": 1}}, {"body": "two"}],
    }  # fmt: skip
    created = check_json(canonical.post("/tasks", json=wanted), 201)
    shown: dict[str, Any] = check_json(client.get(f"/tasks/{created['id']}"))
    return shown


@pytest.mark.parametrize("slash", ["/", ""])
def test_task_is_created_with_conversations_and_run_by_a_worker(
    client: httpx.Client, slash: str
) -> None:
    new = {
        "title": "Answer",
        "description": "Soon",
        "conversations": [{"body": "hello"}, {"body": {"text": "you"}}],
    }
    response = client.post(f"/tasks{slash}", json=new)
    created = check_json(response, 201)
    assert set(created) == TASK_FIELDS | {"conversations"}
    assert isinstance(created["id"], int)
    assert (
        check_json(client.get(str(response.url.join(response.headers["location"]))))["id"]
        == created["id"]
    )
    assert (created["title"], created["description"], created["conversation_count"]) == (
        "Answer",
        "Soon",
        2,
    )
    assert [c["body"] for c in created["conversations"]] == ["hello", {"text": "you"}]
    assert {c["task_id"] for c in created["conversations"]} == {created["id"]}
    assert all(set(c) == CONVERSATION_FIELDS for c in created["conversations"])

    def completed() -> bool:
        return bool(
            check_json(client.get(f"/tasks/{created['id']}{slash}"))["status"] == "completed"
        )

    wait_until("the worker completes the task", completed, 30)
    done = check_json(client.get(f"/tasks/{created['id']}{slash}"))
    assert done["processed_at"]
    UUID(done["processing_instance_id"])
    assert {c["status"] for c in done["conversations"]} == {"processed"}
    assert all(c["processed_at"] for c in done["conversations"])


def test_conversations_are_optional(client: httpx.Client) -> None:
    created = check_json(client.post("/tasks/", json={"title": "a"}), 201)
    assert (created["description"], created["conversation_count"], created["conversations"]) == (
        None,
        0,
        [],
    )


@pytest.mark.parametrize("slash", ["/", ""])
def test_list_is_one_array_with_conversation_counts(
    client: httpx.Client, task: dict[str, Any], slash: str
) -> None:
    listed = check_json(client.get(f"/tasks{slash}"))
    assert all(set(t) == TASK_FIELDS for t in listed)
    [shown] = [t for t in listed if t["id"] == task["id"]]
    assert shown == {name: task[name] for name in TASK_FIELDS}
    assert shown["conversation_count"] == 2
    assert [t["id"] for t in listed] == sorted(t["id"] for t in listed)


def test_scheduled_task_is_shown_as_pending(task: dict[str, Any]) -> None:
    assert task["status"] == "pending"


@pytest.mark.parametrize("slash", ["", "/"])
def test_update_keeps_missing_fields(
    client: httpx.Client, task: dict[str, Any], slash: str
) -> None:
    changed = check_json(
        client.put(f"/tasks/{task['id']}{slash}", json={"title": "New", "status": "COMPLETED"})
    )
    assert (changed["id"], changed["title"], changed["description"]) == (task["id"], "New", "Soon")
    assert changed["status"] == "completed"
    assert check_json(client.get(f"/tasks/{task['id']}"))["title"] == "New"


def test_response_is_accepted_as_an_update(client: httpx.Client) -> None:
    done = check_json(client.post("/tasks/", json={"title": "a"}), 201)
    check_json(
        client.put(f"/tasks/{done['id']}", json={"title": "b", "id": 7, "conversation_count": 9})
    )
    new = {"title": "a", "unknown": 1, "conversations": [{"body": 1, "author": "ada"}]}
    [own] = check_json(client.post("/tasks/", json=new), 201)["conversations"]
    assert check_json(client.put(f"/conversations/{own['id']}", json=own))["body"] == 1


def test_scheduled_task_sent_back_unchanged_stays_scheduled(
    client: httpx.Client, canonical: httpx.Client, task: dict[str, Any]
) -> None:
    """C shows the status `scheduled` as `pending`."""
    assert task["status"] == "pending"
    title = f"Sent back {task['id']}"
    check_json(client.put(f"/tasks/{task['id']}", json=task | {"title": title}))
    waiting = check_json(canonical.get("/tasks", params={"status": "scheduled", "limit": 200}))[
        "items"
    ]
    assert [t["run_at"] for t in waiting if t["title"] == title] == ["2100-01-01T00:00:00Z"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_delete_removes_the_conversations(
    client: httpx.Client, task: dict[str, Any], slash: str
) -> None:
    check_json(client.delete(f"/tasks/{task['id']}{slash}"), 204)
    for response in (
        client.get(f"/tasks/{task['id']}{slash}"),
        client.get(f"/tasks/{task['id']}/conversations{slash}"),
        client.put(f"/conversations/{task['conversations'][0]['id']}{slash}", json={"body": 1}),
        client.delete(f"/tasks/{task['id']}{slash}"),
    ):
        check_problem(response, 404, "not_found")


@pytest.mark.parametrize("slash", ["/", ""])
def test_conversations_are_added_listed_and_changed(
    client: httpx.Client, task: dict[str, Any], slash: str
) -> None:
    own = f"/tasks/{task['id']}/conversations{slash}"
    added = check_json(client.post(own, json={"body": ["three"]}), 201)
    assert set(added) == CONVERSATION_FIELDS
    assert (added["task_id"], added["body"], added["status"]) == (task["id"], ["three"], "pending")
    assert check_json(client.get(own)) == [*task["conversations"], added]
    assert check_json(client.get(f"/tasks/{task['id']}"))["conversation_count"] == 3
    one = f"/conversations/{added['id']}{slash}"
    changed = check_json(client.put(one, json={"body": "3", "status": "processed"}))
    assert (changed["id"], changed["body"], changed["status"]) == (added["id"], "3", "processed")


def test_uuids_are_accepted_as_ids(client: httpx.Client, canonical: httpx.Client) -> None:
    created = check_json(
        canonical.post("/tasks", json={"title": "a", "conversations": [{"body": 1}]}), 201
    )
    shown = check_json(client.get(f"/tasks/{created['id']}"))
    assert isinstance(shown["id"], int)
    assert check_json(client.get(f"/tasks/{shown['id']}")) == shown
    assert (
        check_json(client.put(f"/tasks/{created['id']}", json={"title": "b"}))["id"] == shown["id"]
    )


def test_health_shows_the_database_and_needs_no_token(mount: Mount) -> None:
    with mount.client(role=None) as nobody:
        for path in ("/health", "/health/"):
            assert check_json(nobody.get(path)) == {"status": "healthy", "database": "up"}


@pytest.mark.parametrize("slash", ["", "/"])
def test_status_shows_the_workers(client: httpx.Client, slash: str) -> None:
    status = check_json(client.get(f"/status{slash}"))
    assert set(status) == {"service", "version", "worker", "workers", "cache"}
    assert all(w["id"] for w in status["workers"])
    if status["worker"] is not None:
        worker = status["worker"]
        known = {
            "instance_id",
            "running_since",
            "current_task",
            "current_tasks",
            "completed",
            "failed",
        }
        assert set(worker) == known
        UUID(worker["instance_id"])
        assert worker["instance_id"] in [w["id"] for w in status["workers"]]


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_is_stored_unchanged(client: httpx.Client, text: str) -> None:
    new = {"title": text, "description": text, "conversations": [{"body": text}]}
    created = check_json(client.post("/tasks/", json=new), 201)
    assert (created["title"], created["description"], created["conversations"][0]["body"]) == (
        text,
        text,
        text,
    )


@pytest.mark.parametrize("key", ["0", "9" * 18, "9" * 40, "-1", "1.5", "x", "٣", UNKNOWN_ID])
def test_unknown_ids_return_404(client: httpx.Client, key: str) -> None:
    for response in (
        client.get(f"/tasks/{key}"),
        client.put(f"/tasks/{key}", json={"title": "a"}),
        client.delete(f"/tasks/{key}"),
        client.get(f"/tasks/{key}/conversations/"),
        client.post(f"/tasks/{key}/conversations/", json={"body": 1}),
        client.put(f"/conversations/{key}", json={"body": 1}),
    ):
        check_problem(response, 404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "title"),
        ({"title": ""}, "title"),
        ({"title": "a\x00"}, "title"),
        ({"title": "a", "conversations": [{}]}, "conversations.0.body"),
        ({"title": "a", "conversations": [{"body": None}]}, "conversations.0.body"),
        ({"title": "a", "conversations": "x"}, "conversations"),
        ({"title": "a", "conversations": [{"body": 1}] * 1001}, "conversations"),
    ],
)
def test_invalid_fields_are_named(client: httpx.Client, body: object, field: str) -> None:
    problem = check_problem(client.post("/tasks/", json=body), 422, "invalid_field")
    assert [e["field"] for e in problem["errors"]] == [field]


def test_invalid_statuses_are_rejected(client: httpx.Client, task: dict[str, Any]) -> None:
    check_problem(client.put(f"/tasks/{task['id']}", json={"status": "done"}), 422, "invalid_field")
    problem = check_problem(
        client.put(f"/tasks/{task['id']}", json={"status": "processing"}), 409, "invalid_transition"
    )
    assert "completed" in problem["allowed"]


def test_missing_token_returns_401(mount: Mount) -> None:
    with mount.client(role=None) as nobody:
        for path in ("/tasks/", "/tasks/1", "/tasks/1/conversations/", "/status"):
            check_problem(nobody.get(path), 401, "unauthorized")
        check_problem(nobody.post("/tasks/", json={"title": "a"}), 401, "unauthorized")


def test_editors_change_only_their_own_tasks(mount: Mount, task: dict[str, Any]) -> None:
    with mount.client("editor") as editor:
        own = check_json(editor.post("/tasks/", json={"title": "mine"}), 201)
        check_json(editor.put(f"/tasks/{own['id']}", json={"title": "still mine"}))
        assert (
            check_problem(editor.delete(f"/tasks/{task['id']}"), 403, "forbidden")["needs"]
            == "operator"
        )
