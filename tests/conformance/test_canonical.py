"""The canonical API: the main function of each resource. Other tests cover the details."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.conformance.checks import UNKNOWN_ID, check_json, check_problem
from tests.support.conformance.deployments import Deployment, wait_until


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    """Client of the canonical API with an administrator's token."""
    with deployment.client("/api/v1") as client:
        yield client


@pytest.fixture
def task(client: httpx.Client) -> dict[str, Any]:
    """A manual task."""
    created: dict[str, Any] = check_json(
        client.post("/tasks", json={"title": f"Ring Ada {uuid4().hex}"}), 201
    )
    return created


def test_task_passes_from_creation_to_deletion(client: httpx.Client) -> None:
    response = client.post(
        "/tasks", json={"title": "Ring Ada", "priority": "high", "tags": ["phone"]}
    )
    created = check_json(response, 201)
    assert response.headers["location"] == f"/api/v1/tasks/{created['id']}"
    one = f"/tasks/{created['id']}"
    assert client.get(one, headers={"If-None-Match": response.headers["etag"]}).status_code == 304
    guard = {"If-Match": response.headers["etag"]}
    changed = check_json(
        client.patch(one, json={"status": "in_progress", "reason": "now"}, headers=guard)
    )
    assert changed["status"] == "in_progress"
    check_problem(client.patch(one, json={"title": "b"}, headers=guard), 412, "stale_version")
    assert check_json(client.post(f"{one}:cancel"))["status"] == "cancelled"
    assert check_json(client.post(f"{one}:retry", json={"reason": "again"}))["status"] == "pending"
    history = check_json(client.get(f"{one}/history"))["items"]
    assert [h["new_status"] for h in history] == ["pending", "in_progress", "cancelled", "pending"]
    check_json(client.delete(one), 204)
    check_problem(client.get(one), 404, "not_found")


def test_worker_runs_a_task_with_a_handler(client: httpx.Client) -> None:
    created = check_json(client.post("/tasks", json={"title": "a", "handler": "noop"}), 201)
    wait_until(
        "it is completed",
        lambda: check_json(client.get(f"/tasks/{created['id']}"))["status"] == "completed",
        30,
    )
    [run] = check_json(client.get(f"/tasks/{created['id']}/runs"))["items"]
    assert (run["attempt"], run["outcome"], run["final"]) == (1, "completed", True)


def test_batch_creates_all_tasks_or_none(client: httpx.Client) -> None:
    text = uuid4().hex
    check_json(
        client.post("/tasks:batch", json={"tasks": [{"title": f"{text} {n}"} for n in range(20)]}),
        201,
    )
    check_problem(
        client.post("/tasks:batch", json={"tasks": [{"title": text}, {}]}), 422, "invalid_field"
    )
    assert len(check_json(client.get("/tasks", params={"text": text}))["items"]) == 20


def test_cursor_leads_to_the_next_page(client: httpx.Client) -> None:
    assignee = uuid4().hex
    created = [
        check_json(client.post("/tasks", json={"title": "a", "assigned_to": assignee}), 201)["id"]
        for _ in range(5)
    ]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = check_json(
            client.get("/tasks", params={"assigned_to": assignee, "limit": 2, **cursor})
        )
        found += [t["id"] for t in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == created[::-1]


def test_conversations_belong_to_a_task(client: httpx.Client, task: dict[str, Any]) -> None:
    created = check_json(
        client.post(f"/tasks/{task['id']}/conversations", json={"body": {"text": "hello"}}), 201
    )
    one = f"/conversations/{created['id']}"
    assert check_json(client.get(f"/tasks/{task['id']}/conversations"))["items"] == [created]
    assert check_json(client.patch(one, json={"status": "processed"}))["status"] == "processed"
    check_json(client.delete(one), 204)
    check_problem(client.get(one), 404, "not_found")


def test_tasks_are_exported_and_imported_as_csv(client: httpx.Client, task: dict[str, Any]) -> None:
    sent = client.get("/tasks:export", params={"text": task["title"]})
    assert sent.headers["content-type"].startswith("text/csv")
    assert task["title"] in sent.text
    report = check_json(
        client.post("/tasks:import", files={"file": ("tasks.csv", sent.content, "text/csv")}), 201
    )
    assert (report["created"], report["skipped"]) == (1, 0)


def test_daily_log_contains_the_active_tasks(client: httpx.Client, task: dict[str, Any]) -> None:
    loaded = check_json(client.post("/daily-log:run", json={}))
    assert loaded["entries"] >= 1
    [entry] = check_json(client.get("/daily-log", params={"date": loaded["date"], "limit": 1}))[
        "items"
    ]
    assert check_json(client.get(f"/daily-log/{entry['id']}")) == entry
    assert check_json(client.post("/daily-log:run", json={}))["added"] == 0


def test_queues_are_paused_and_resumed(client: httpx.Client) -> None:
    name = f"q-{uuid4().hex[:8]}"
    assert check_json(client.post(f"/queues/{name}:pause", json={"reason": "test"}))["paused"]
    assert not check_json(client.post(f"/queues/{name}:resume"))["paused"]
    assert check_json(client.get("/workers"))["workers"]


def test_schedule_shows_its_next_run(client: httpx.Client) -> None:
    new = {
        "name": f"nightly-{uuid4().hex}",
        "cron": "0 3 * * *",
        "time_zone": "UTC",
        "template": {"title": "Clean"},
    }
    created = check_json(client.post("/schedules", json=new), 201)
    following = datetime.fromisoformat(created["next_run_at"])
    assert datetime.now(UTC) < following <= datetime.now(UTC) + timedelta(days=1)
    check_json(client.delete(f"/schedules/{created['id']}"), 204)


def test_settings_are_stored(client: httpx.Client) -> None:
    key = f"k-{uuid4().hex}"
    assert check_json(client.put(f"/settings/{key}", json={"value": [1]}), 201)["value"] == [1]
    check_json(client.delete(f"/settings/{key}"), 204)


def test_users_log_in_and_lose_access_when_disabled(
    deployment: Deployment, client: httpx.Client
) -> None:
    name, password = deployment.register("editor")
    form = {"username": name, "password": password}
    tokens = check_json(client.post("/auth/token", data=form))
    fresh = check_json(
        client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    )
    bearer = {"Authorization": f"Bearer {fresh['access_token']}"}
    me = check_json(client.get("/auth/me", headers=bearer))
    assert (me["username"], me["role"]) == (name, "editor")
    check_json(client.patch(f"/users/{me['id']}", json={"disabled": True}))
    assert client.get("/auth/me", headers=bearer).status_code == 401
    assert client.post("/auth/token", data=form).status_code == 401


def test_administrators_read_the_audit_log(client: httpx.Client, task: dict[str, Any]) -> None:
    [line] = check_json(client.get("/audit-log", params={"task_id": task["id"]}))["items"]
    assert (line["previous_status"], line["new_status"]) == (None, "pending")


def test_statistics_add_up(client: httpx.Client) -> None:
    summary = check_json(client.get("/tasks/stats/summary"))
    assert (
        summary["total"]
        == sum(summary["by_status"].values())
        == sum(summary["by_priority"].values())
    )


def test_repeated_request_runs_once(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first, second = (
        client.post("/tasks", json={"title": "once"}, headers=headers) for _ in range(2)
    )
    assert check_json(first, 201) == check_json(second, 201)
    other = client.post("/tasks", json={"title": "other"}, headers=headers)
    check_problem(other, 422, "idempotency_conflict")


def test_unique_key_returns_the_task_that_holds_it(client: httpx.Client) -> None:
    form = {"title": "once", "unique_key": f"k-{uuid4().hex}"}
    first, second = (client.post("/tasks", json=form) for _ in range(2))
    assert check_json(first, 201) == check_json(second, 200)
    assert second.headers["location"] == first.headers["location"]
    batch = check_json(client.post("/tasks:batch", json={"tasks": [form, {"title": "other"}]}), 201)
    assert (batch["created"], batch["present"]) == (1, [0])
    check_problem(
        client.post("/tasks", json={"title": "a", "unique_seconds": 1}), 422, "invalid_field"
    )


def test_task_waits_for_the_tasks_it_needs(client: httpx.Client) -> None:
    manual = check_json(client.post("/tasks", json={"title": "first"}), 201)
    form = {"title": "then", "handler": "noop", "needs": [manual["id"]]}
    dependent = check_json(client.post("/tasks", json=form), 201)
    assert dependent["waits_for"] == [manual["id"]]
    check_json(client.patch(f"/tasks/{manual['id']}", json={"status": "completed"}))
    wait_until(
        "it is completed",
        lambda: check_json(client.get(f"/tasks/{dependent['id']}"))["status"] == "completed",
        30,
    )
    check_json(client.delete(f"/tasks/{manual['id']}", params={"hard": True}), 204)
    check_problem(client.post("/tasks", json=form), 422, "invalid_field")


def test_errors_are_problems(client: httpx.Client) -> None:
    check_problem(client.get(f"/tasks/{UNKNOWN_ID}"), 404, "not_found")
    check_problem(client.get("/nothing"), 404, "not_found")
    check_problem(client.put("/tasks"), 405, "method_not_allowed")
    check_problem(client.post("/tasks", content="{"), 400, "broken_json")
    check_problem(client.get("/tasks", params={"unknown": 1}), 422, "invalid_field")
