"""Service E: `/tasks` with pages or cursors, filters, field rules and statistics."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.support.conformance.checks import UNICODE, UNKNOWN_ID, check_json, check_problem
from tests.support.conformance.deployments import Mount

FIELDS = {
    "id", "title", "description", "status", "priority", "assigned_to", "due_date", "tags", "handler", "payload",
    "queue", "run_at", "max_attempts", "timeout_seconds", "attempt", "result", "error", "created_by", "created_at",
    "updated_at", "processed_at", "processing_instance_id", "conversation_count", "version", "cancel_requested_at",
    "limit_key", "progress", "waits_for",
}  # fmt: skip
LATER = (datetime.now(UTC) + timedelta(days=7)).replace(microsecond=0)


@pytest.fixture
def task(client: httpx.Client) -> dict[str, Any]:
    """A task of service E."""
    new = {
        "title": "Deploy", "description": "To production", "priority": "HIGH", "assigned_to": "ada",
        "due_date": LATER.isoformat(), "tags": ["ops", "Release", "OPS"],
    }  # fmt: skip
    created: dict[str, Any] = check_json(client.post("/tasks", json=new), 201)
    return created


@pytest.fixture(scope="module")
def seven(client: httpx.Client) -> list[dict[str, Any]]:
    """Seven tasks of one assignee, by whom the tests filter."""
    who = f"ada-{uuid4().hex[:8]}"
    priorities = ["low", "medium", "high", "urgent", "low", "medium", "high"]
    return [
        check_json(
            client.post("/tasks", json={"title": f"Task {n}", "priority": p, "assigned_to": who}),
            201,
        )
        for n, p in enumerate(priorities)
    ]


@pytest.mark.parametrize("slash", ["", "/"])
def test_task_is_created_read_changed_and_deleted(client: httpx.Client, slash: str) -> None:
    response = client.post(f"/tasks{slash}", json={"title": "Deploy"})
    created = check_json(response, 201)
    assert set(created) == FIELDS
    assert str(UUID(created["id"])) == created["id"]
    assert response.headers["location"].endswith(f"/tasks/{created['id']}")
    assert (created["status"], created["priority"], created["tags"], created["handler"]) == (
        "pending",
        "medium",
        [],
        None,
    )
    one = f"/tasks/{created['id']}{slash}"
    assert check_json(client.get(one)) == created
    for number, method in enumerate(("PUT", "PATCH"), 2):
        changed = check_json(client.request(method, one, json={"title": method}))
        assert (changed["title"], changed["version"]) == (method, number)
    assert check_json(client.get(one)) == changed
    check_json(client.delete(one), 204)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        check_problem(
            client.request(method, one, json=None if method in ("GET", "DELETE") else {}),
            404,
            "not_found",
        )


def test_fields_are_normalized_and_stored(task: dict[str, Any]) -> None:
    assert (task["priority"], task["assigned_to"], task["tags"]) == (
        "high",
        "ada",
        ["ops", "Release"],
    )
    assert datetime.fromisoformat(task["due_date"]) == LATER


def test_patch_changes_the_given_fields_and_null_clears_them(
    client: httpx.Client, task: dict[str, Any]
) -> None:
    wanted: dict[str, Any] = {
        "assigned_to": None,
        "due_date": None,
        "tags": [],
        "status": "In_Progress",
    }
    changed = check_json(client.patch(f"/tasks/{task['id']}", json=wanted))
    assert {name: changed[name] for name in wanted} == wanted | {"status": "in_progress"}
    assert (changed["title"], changed["description"], changed["priority"]) == (
        "Deploy",
        "To production",
        "high",
    )


def test_response_is_accepted_as_an_update(client: httpx.Client, task: dict[str, Any]) -> None:
    for method in ("PUT", "PATCH"):
        assert check_json(client.request(method, f"/tasks/{task['id']}", json=task)) == task


def test_numbered_pages_are_consecutive(client: httpx.Client, seven: list[dict[str, Any]]) -> None:
    where = {"assigned_to": seven[0]["assigned_to"], "sort": "created_at", "page_size": 3}
    pages = [check_json(client.get("/tasks", params=where | {"page": n})) for n in (1, 2, 3, 4)]
    assert [[t["title"] for t in p["items"]] for p in pages] == [
        ["Task 0", "Task 1", "Task 2"], ["Task 3", "Task 4", "Task 5"], ["Task 6"], [],
    ]  # fmt: skip
    for number, page in enumerate(pages, 1):
        assert set(page) == {"items", "page", "page_size", "total", "pages", "next_cursor"}
        assert (page["page"], page["page_size"], page["total"], page["pages"]) == (
            number,
            3,
            None,
            None,
        )
    assert [p["next_cursor"] is None for p in pages] == [False, False, True, True]
    assert set(pages[0]["items"][0]) == FIELDS - {"payload", "result", "progress", "waits_for"}


@pytest.mark.parametrize(
    "sort", ["created_at", "-created_at", "due_date", "-due_date", "priority", "-priority"]
)
def test_pages_and_cursors_agree_in_every_order(
    client: httpx.Client, seven: list[dict[str, Any]], sort: str
) -> None:
    due = {"due_date": LATER.isoformat()}
    for task in seven[:3]:
        check_json(client.patch(f"/tasks/{task['id']}", json=due))
    where: dict[str, Any] = {"assigned_to": seven[0]["assigned_to"], "sort": sort, "page_size": 2}
    by_page = [
        t["id"]
        for n in range(1, 6)
        for t in check_json(client.get("/tasks", params=where | {"page": n}))["items"]
    ]
    by_cursor: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = check_json(client.get("/tasks/", params=where | cursor))
        by_cursor += [t["id"] for t in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
        assert page["page"] == (1 if len(by_cursor) == 2 else None)
    assert by_page == by_cursor
    assert sorted(by_page) == sorted(t["id"] for t in seven)


def test_totals_are_shown_without_filters_and_by_status_or_priority(client: httpx.Client) -> None:
    summary = check_json(client.get("/tasks/stats/summary"))
    for params, total in (
        ({}, summary["total"]),
        ({"status": "pending"}, summary["by_status"]["pending"]),
        (
            {"priority": ["low", "HIGH"]},
            summary["by_priority"]["low"] + summary["by_priority"]["high"],
        ),
        ({"status": "pending", "priority": "low"}, None),
        ({"assigned_to": "ada"}, None),
    ):
        assert (
            check_json(client.get("/tasks", params={**params, "page_size": 1}))["total"] == total
        ), params


def test_filters_can_be_combined(client: httpx.Client, seven: list[dict[str, Any]]) -> None:
    mine = {"assigned_to": seven[0]["assigned_to"]}

    def titles(**params: Any) -> list[str]:
        found = check_json(client.get("/tasks", params={**mine, "sort": "created_at", **params}))[
            "items"
        ]
        return [t["title"] for t in found]

    assert titles(priority="LOW") == ["Task 0", "Task 4"]
    assert titles(priority=["low", "urgent"]) == ["Task 0", "Task 3", "Task 4"]
    assert titles(text="task 3") == titles(text="3 TA*") == ["Task 3"]
    assert titles(text="ask 3") == []  # whole words only
    assert titles(status="completed") == []
    assert titles(created_after=seven[5]["created_at"]) == ["Task 5", "Task 6"]
    assert titles(created_before=seven[2]["created_at"]) == ["Task 0", "Task 1"]
    assert titles(tag="nobody-has-this") == []
    assert titles(due_before="2001-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    "params",
    [
        {"page": 0}, {"page": -1}, {"page": "x"}, {"page": 10**30}, {"page_size": 0}, {"page_size": 201},
        {"page": 101, "page_size": 100}, {"status": "done"}, {"priority": "highest"}, {"sort": "title"},
        {"created_after": "yesterday"}, {"cursor": "x"}, {"cursor": "x", "page": 2}, {"pgae": 2}, {"tag": "x" * 51},
    ],
)  # fmt: skip
def test_invalid_parameters_are_rejected(client: httpx.Client, params: dict[str, Any]) -> None:
    check_problem(client.get("/tasks", params=params), 422, "invalid_field")


def test_statistics_count_by_status_and_priority(client: httpx.Client) -> None:
    before = check_json(client.get("/tasks/stats/summary"))
    task = check_json(client.post("/tasks", json={"title": "a", "priority": "urgent"}), 201)
    after = check_json(client.get("/tasks/stats/summary/"))
    assert set(after["by_priority"]) == {"low", "medium", "high", "urgent"}
    assert {"pending", "in_progress", "completed", "failed", "cancelled"} <= set(after["by_status"])
    assert after["total"] == before["total"] + 1
    assert after["by_status"]["pending"] == before["by_status"]["pending"] + 1
    assert after["by_priority"]["urgent"] == before["by_priority"]["urgent"] + 1
    check_json(client.delete(f"/tasks/{task['id']}"), 204)
    assert check_json(client.get("/tasks/stats/summary"))["total"] == before["total"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": " \t"}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": 1}, "title"),
        ({"description": "x" * 2001}, "description"),
        ({"priority": "highest"}, "priority"),
        ({"status": "done"}, "status"),
        ({"tags": [f"tag {n}" for n in range(11)]}, "tags"),
        ({"tags": ["x" * 51]}, "tags"),
        ({"tags": "x"}, "tags"),
        ({"due_date": "2001-01-01T00:00:00Z"}, "due_date"),
        ({"due_date": "2030-02-30T00:00:00Z"}, "due_date"),
        ({"due_date": "soon"}, "due_date"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"handler": "a b"}, "handler"),
    ],
)
def test_field_rules_apply_to_create_and_update(
    client: httpx.Client, task: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    for response in (
        client.post("/tasks", json={"title": "a"} | change),
        client.put(f"/tasks/{task['id']}", json=change),
        client.patch(f"/tasks/{task['id']}", json=change),
    ):
        problem = check_problem(response, 422, "invalid_field")
        assert [e["field"] for e in problem["errors"]] == [field]


def test_bounds_are_inclusive(client: httpx.Client) -> None:
    new = {"title": "x" * 200, "description": "y" * 2000, "tags": [f"{n:050}" for n in range(10)]}
    created = check_json(client.post("/tasks", json=new), 201)
    assert {name: created[name] for name in new} == new


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_is_stored_unchanged(client: httpx.Client, text: str) -> None:
    new = {"title": text, "description": text, "tags": [text], "assigned_to": text}
    created = check_json(client.post("/tasks", json=new), 201)
    assert {name: created[name] for name in new} == new


@pytest.mark.parametrize("key", ["1", "x", UNKNOWN_ID])
def test_unknown_tasks_return_404(client: httpx.Client, key: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = client.request(
            method, f"/tasks/{key}", json=None if method in ("GET", "DELETE") else {"title": "a"}
        )
        check_problem(response, 404, "not_found")


def test_missing_token_returns_401(mount: Mount) -> None:
    with mount.client(role=None) as nobody:
        for path in ("/tasks", "/tasks/stats/summary", f"/tasks/{UNKNOWN_ID}"):
            response = nobody.get(path)
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_swagger_redoc_and_schema_are_served(mount: Mount) -> None:
    with mount.deployment.client(role=None) as nobody:
        assert f"{mount.prefix}/tasks/stats/summary" in nobody.get("/openapi.json").json()["paths"]
        for path in ("/docs", "/redoc"):
            assert nobody.get(path).status_code == 200
