"""Service D: tokens, integer ids, `active`, daily log, CSV, audit log, errors in its format."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.support.conformance.checks import UNICODE, UNKNOWN_ID, check_d_error, check_json
from tests.support.conformance.deployments import Deployment, DeploymentFactory, Mount, wait_until

TASK_FIELDS = {"id", "title", "status", "created_by"}


@pytest.fixture
def task(client: httpx.Client) -> dict[str, Any]:
    """A task of service D."""
    created: dict[str, Any] = check_json(
        client.post("/task", json={"title": f"Report {uuid4().hex}"}), 201
    )
    return created


@pytest.fixture
def today(canonical: httpx.Client, task: dict[str, Any]) -> str:
    """Today's date, after the daily loader has run."""
    return str(check_json(canonical.post("/daily-log:run", json={}))["date"])


@pytest.mark.parametrize("slash", ["", "/"])
def test_task_is_created_as_active(mount: Mount, client: httpx.Client, slash: str) -> None:
    created = check_json(
        client.post(f"/task{slash}", json={"title": "Report", "description": "Daily"}), 201
    )
    assert created == {
        "id": created["id"],
        "title": "Report",
        "status": "active",
        "created_by": mount.deployment.admin[0],
    }
    assert isinstance(created["id"], int)


def test_task_is_manual_unless_it_names_a_handler(
    client: httpx.Client, canonical: httpx.Client
) -> None:
    title = uuid4().hex
    check_json(client.post("/task", json={"title": title}), 201)
    [found] = check_json(canonical.get("/tasks", params={"text": title}))["items"]
    assert found["handler"] is None


@pytest.mark.parametrize("slash", ["", "/"])
def test_task_is_changed_by_number_or_uuid(
    client: httpx.Client, canonical: httpx.Client, task: dict[str, Any], slash: str
) -> None:
    changed = check_json(
        client.put(f"/task/{task['id']}{slash}", json={"title": "New", "status": "completed"})
    )
    assert changed == task | {"title": "New", "status": "completed"}
    title = uuid4().hex
    created = check_json(canonical.post("/tasks", json={"title": title}), 201)
    assert (
        check_json(client.put(f"/task/{created['id']}{slash}", json={"title": "b"}))["title"] == "b"
    )


def test_active_reopens_ended_tasks_and_keeps_open_ones(
    client: httpx.Client, canonical: httpx.Client
) -> None:
    title = uuid4().hex
    task = check_json(client.post("/task", json={"title": title, "status": "active"}), 201)

    def status() -> str:
        [found] = check_json(canonical.get("/tasks", params={"text": title}))["items"]
        return str(found["status"])

    assert status() == "pending"
    for wanted, canonical_status in (
        ("in_progress", "in_progress"),
        ("active", "in_progress"),
        ("completed", "completed"),
        ("ACTIVE", "pending"),
    ):
        shown = check_json(client.put(f"/task/{task['id']}", json={"status": wanted}))["status"]
        assert (shown, status()) == (
            "completed" if wanted == "completed" else "active",
            canonical_status,
        )


@pytest.mark.parametrize("slash", ["", "/"])
def test_task_is_soft_deleted(client: httpx.Client, task: dict[str, Any], slash: str) -> None:
    assert check_json(client.delete(f"/task/{task['id']}{slash}")) == {
        "message": "Task soft deleted successfully"
    }
    check_d_error(client.delete(f"/task/{task['id']}{slash}"), 404)
    check_d_error(client.put(f"/task/{task['id']}", json={"title": "b"}), 404)


def test_list_is_paginated(client: httpx.Client, task: dict[str, Any]) -> None:
    created = [
        task,
        *(check_json(client.post("/task", json={"title": f"Page {n}"}), 201) for n in range(4)),
    ]
    for size in ("page_size", "per_page", "limit"):
        pages = [check_json(client.get("/tasks", params={"page": n, size: 2})) for n in (1, 2)]
        assert [t["id"] for page in pages for t in page["items"]] == [
            t["id"] for t in reversed(created[1:])
        ]
        for number, page in enumerate(pages, 1):
            assert (page["page"], page["page_size"]) == (number, 2)
            assert page["total"] >= 5
            assert page["pages"] == -(-page["total"] // 2)
            assert all(set(t) == TASK_FIELDS for t in page["items"])
    following = check_json(
        client.get("/tasks/", params={"limit": 2, "cursor": pages[0]["next_cursor"]})
    )
    assert following["items"] == pages[1]["items"]


def test_list_is_filtered_by_the_statuses_of_d(client: httpx.Client, task: dict[str, Any]) -> None:
    check_json(client.put(f"/task/{task['id']}", json={"status": "completed"}))
    text = task["title"].split()[1]
    for status, count in (("active", 0), ("completed", 1), ("ACTIVE", 0)):
        found = check_json(client.get("/tasks", params={"status": status, "text": text}))["items"]
        assert len(found) == count


def test_unknown_parameters_are_ignored(client: httpx.Client) -> None:
    check_json(client.get("/tasks", params={"unknown": "x", "page": 1}))


def test_daily_log_is_read_by_date_and_by_entry(
    client: httpx.Client, task: dict[str, Any], today: str
) -> None:
    log = check_json(client.get("/tasks", params={"date": today}))
    assert isinstance(log, list)
    [entry] = [e for e in log if e["title"] == task["title"]]
    assert entry == {"id": entry["id"], "title": task["title"], "status": "active", "date": today}
    assert isinstance(entry["id"], int)
    assert check_json(client.get(f"/task/{entry['id']}")) == entry
    assert check_json(client.get(f"/task/{entry['id']}/")) == entry
    assert check_json(client.get("/tasks/", params={"date": today})) == log


def test_daily_log_entry_is_read_by_uuid(
    client: httpx.Client, canonical: httpx.Client, today: str
) -> None:
    [entry] = check_json(canonical.get("/daily-log", params={"date": today, "limit": 1}))["items"]
    assert check_json(client.get(f"/task/{entry['id']}"))["id"] == entry["number"]


def test_cached_day_shows_entries_that_are_loaded_later(
    client: httpx.Client, canonical: httpx.Client, today: str
) -> None:
    before = check_json(client.get("/tasks", params={"date": today}))
    check_json(client.post("/task", json={"title": "later"}), 201)
    check_json(canonical.post("/daily-log:run", json={}))
    wait_until(
        "the new entry is shown",
        lambda: len(check_json(client.get("/tasks", params={"date": today}))) > len(before),
    )


def test_day_without_entries_is_an_empty_list(client: httpx.Client) -> None:
    assert check_json(client.get("/tasks", params={"date": "2001-02-03"})) == []


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "yesterday", "", "0"])
def test_nonexistent_dates_are_rejected(client: httpx.Client, day: str) -> None:
    assert check_d_error(client.get("/tasks", params={"date": day}), 422).startswith("date: ")


@pytest.mark.parametrize("slash", ["", "/"])
def test_csv_upload_creates_tasks_once(
    client: httpx.Client, canonical: httpx.Client, slash: str
) -> None:
    title = uuid4().hex
    content = f"title,description,status\n{title} one,first,pending\n{title} two,second,completed\n"
    report = check_json(
        client.post(f"/upload-csv{slash}", files={"file": ("tasks.csv", content, "text/csv")}), 201
    )
    assert (report["rows"], report["created"], report["errors"]) == (2, 2, [])
    assert report["message"] == "2 tasks were imported"
    found = check_json(canonical.get("/tasks", params={"text": title, "sort": "created_at"}))[
        "items"
    ]
    assert {t["title"]: t["status"] for t in found} == {
        f"{title} one": "pending",
        f"{title} two": "completed",
    }
    again = check_json(
        client.post(f"/upload-csv{slash}", files={"file": ("tasks.csv", content, "text/csv")})
    )
    assert again["repeated"]
    assert len(check_json(canonical.get("/tasks", params={"text": title}))["items"]) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"name\nx\n", "title"),
        (b"title,status\nok,pending\nbad,done\n", "line 3, column status"),
        (b"title\n\xff\xfe\n", "line 2"),
        (b"title\na\x00b\n", "line 2"),
        (b"title,description\none\n", "line 2"),
    ],
)
def test_invalid_file_is_rejected_with_line_and_column(
    client: httpx.Client, content: bytes, words: str
) -> None:
    assert words in check_d_error(
        client.post("/upload-csv", files={"file": ("x.csv", content, "text/csv")}), 422
    )


def test_upload_without_a_file_is_rejected(client: httpx.Client) -> None:
    check_d_error(
        client.post("/upload-csv", files={"other": ("x.csv", b"title\na\n")}),
        400,
        "Field 'file' is required",
    )
    check_d_error(client.post("/upload-csv", json={}), 415)


def test_administrators_read_the_audit_log(
    mount: Mount, client: httpx.Client, canonical: httpx.Client, task: dict[str, Any]
) -> None:
    check_json(client.put(f"/task/{task['id']}", json={"status": "completed"}))
    check_json(client.delete(f"/task/{task['id']}"))
    for path in ("/audit-log", "/audit-log/"):
        page = check_json(client.get(path, params={"limit": 100}))
        own = [line for line in page["items"] if line["task_id"] == task["id"]]
        assert [(line["previous_status"], line["new_status"]) for line in own] == [
            ("completed", "deleted"),
            ("active", "completed"),
            (None, "active"),
        ]
        for line in own:
            assert set(line) == {
                "task_id",
                "previous_status",
                "new_status",
                "modified_by",
                "timestamp",
            }
            assert line["modified_by"] == mount.deployment.admin[0]
            assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    for role in ("viewer", "editor", "operator"):
        with mount.client(role) as other:
            assert "admin" in check_d_error(other.get("/audit-log"), 403)


@pytest.mark.parametrize("body", [{}, {"description": "no title"}])
def test_missing_field_is_named_in_the_format_of_d(
    client: httpx.Client, body: dict[str, str]
) -> None:
    check_d_error(client.post("/task", json=body), 400, "Field 'title' is required")


@pytest.mark.parametrize(
    "body",
    [
        {"title": ""},
        {"title": None},
        {"title": "x" * 201},
        {"title": "a\x00"},
        {"title": "a", "status": "done"},
    ],
)
def test_other_invalid_fields_are_rejected(
    client: httpx.Client, task: dict[str, Any], body: dict[str, Any]
) -> None:
    assert check_d_error(client.post("/task", json=body), 422).startswith(("title: ", "status: "))
    check_d_error(client.put(f"/task/{task['id']}", json=body), 422)


def test_body_that_is_not_json_is_rejected(client: httpx.Client) -> None:
    check_d_error(client.post("/task", content="{"), 400)
    check_d_error(client.post("/task", content="a=b", headers={"Content-Type": "text/plain"}), 415)


def test_body_over_the_limit_is_rejected(client: httpx.Client) -> None:
    check_d_error(client.post("/task", json={"title": "a", "description": "x" * 2_000_000}), 413)


def test_invalid_transitions_are_rejected(client: httpx.Client, task: dict[str, Any]) -> None:
    check_json(client.put(f"/task/{task['id']}", json={"status": "completed"}))
    assert "completed cannot become failed" in check_d_error(
        client.put(f"/task/{task['id']}", json={"status": "failed"}), 409
    )


@pytest.mark.parametrize("key", ["0", "9" * 18, "9" * 40, "-1", "x", UNKNOWN_ID])
def test_unknown_ids_return_404(client: httpx.Client, key: str) -> None:
    for response in (
        client.get(f"/task/{key}"),
        client.put(f"/task/{key}", json={}),
        client.delete(f"/task/{key}"),
    ):
        assert response.request.url.path
        check_d_error(response, 404)


def test_other_methods_and_paths_get_errors_in_the_format_of_d(
    client: httpx.Client, mount: Mount
) -> None:
    response = client.patch("/task/1", json={})
    check_d_error(response, 405)
    assert set(response.headers["allow"].split(", ")) == {"DELETE", "GET", "PUT"}
    check_d_error(client.get("/task/1/nothing"), 404)


def test_missing_token_returns_401(mount: Mount) -> None:
    with mount.client(role=None) as nobody:
        for response in (
            nobody.post("/task", json={"title": "a"}),
            nobody.put("/task/1", json={"title": "a"}),
            nobody.delete("/task/1"),
            nobody.post("/upload-csv", files={"file": b"title\na\n"}),
            nobody.get("/tasks"),
            nobody.get("/audit-log"),
        ):
            check_d_error(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."])
def test_invalid_tokens_are_rejected(client: httpx.Client, token: str) -> None:
    response = client.post(
        "/task", json={"title": "a"}, headers={"Authorization": f"Bearer {token}"}
    )
    check_d_error(response, 401)
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_role_decides_who_may_change_a_task(mount: Mount, task: dict[str, Any]) -> None:
    with (
        mount.client("viewer") as viewer,
        mount.client("editor") as editor,
        mount.client("operator") as operator,
    ):
        check_json(viewer.get("/tasks"))
        assert "editor" in check_d_error(viewer.post("/task", json={"title": "a"}), 403)
        assert "operator" in check_d_error(
            editor.put(f"/task/{task['id']}", json={"title": "a"}), 403
        )
        assert "operator" in check_d_error(editor.delete(f"/task/{task['id']}"), 403)
        own = check_json(editor.post("/task", json={"title": "own"}), 201)
        check_json(editor.put(f"/task/{own['id']}", json={"title": "still own"}))
        check_json(editor.delete(f"/task/{own['id']}"))
        check_json(operator.put(f"/task/{task['id']}", json={"title": "any task"}))


def test_users_log_in_with_a_form_or_with_json(mount: Mount) -> None:
    name, password = mount.deployment.register("editor")
    wanted = {"username": name, "password": password}
    with mount.client(role=None) as nobody:
        for response in (nobody.post("/login", json=wanted), nobody.post("/token", data=wanted)):
            tokens = check_json(response)
            assert tokens["token_type"] == "bearer"
            headers = {"Authorization": f"Bearer {tokens['access_token']}"}
            assert (
                check_json(nobody.post("/task", json={"title": "a"}, headers=headers), 201)[
                    "created_by"
                ]
                == name
            )
        for response in (
            nobody.post("/login", json=wanted | {"password": "wrong"}),
            nobody.post("/token", data=wanted | {"password": "wrong"}),
        ):
            check_d_error(response, 401)
        check_d_error(
            nobody.post("/login", json={"username": name}), 400, "Field 'password' is required"
        )


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_is_stored_unchanged(client: httpx.Client, text: str) -> None:
    assert check_json(client.post("/task", json={"title": text}), 201)["title"] == text


def test_repeated_request_runs_once(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first, second = (
        client.post("/task", json={"title": "once"}, headers=headers) for _ in range(2)
    )
    assert check_json(first, 201) == check_json(second, 201)
    check_d_error(client.post("/task", json={"title": "other"}, headers=headers), 422)


def test_hard_delete_removes_the_daily_log_entries(
    client: httpx.Client, canonical: httpx.Client, task: dict[str, Any], today: str
) -> None:
    [entry] = [
        e
        for e in check_json(client.get("/tasks", params={"date": today}))
        if e["title"] == task["title"]
    ]
    [found] = check_json(canonical.get("/tasks", params={"text": task["title"]}))["items"]
    check_json(canonical.delete(f"/tasks/{found['id']}", params={"hard": "true"}), 204)
    check_d_error(client.get(f"/task/{entry['id']}"), 404)
    assert entry not in check_json(client.get("/tasks", params={"date": today}))
    [line, *_] = check_json(client.get("/audit-log", params={"limit": 1}))["items"]
    assert (UUID(line["task_id"]), line["new_status"]) == (UUID(found["id"]), "deleted")


class TestRateLimits:
    """Rate limits, on a deployment with a low limit."""

    def test_too_many_requests_return_429_with_retry_after(
        self, deployments: DeploymentFactory
    ) -> None:
        deployment = deployments.start("d", RATE_LIMIT_WRITE="3/hour", RATE_LIMIT_LOGIN="2/hour")
        with deployment.client() as client:
            for prefix in ("", "", "/compat/d"):
                check_json(client.post(f"{prefix}/task", json={"title": "a"}), 201)
            for path in ("/task", "/compat/d/task"):
                response = client.post(path, json={"title": "a"})
                check_d_error(response, 429, "Too many requests, please try again later.")
                assert 0 < int(response.headers["retry-after"]) <= 3600
            check_json(client.get("/tasks"))
            wanted = {"username": deployment.admin[0], "password": deployment.admin[1]}
            check_json(client.post("/login", json=wanted))
            check_d_error(
                client.post("/login", json=wanted),
                429,
                "Too many requests, please try again later.",
            )

    def test_writes_need_a_token_even_with_open_access(self, open_deployment: Deployment) -> None:
        with open_deployment.client(role=None) as nobody:
            check_json(nobody.get("/tasks"))
            check_json(nobody.post("/api/v1/tasks", json={"title": "a"}), 201)
            for response in (
                nobody.post("/task", json={"title": "a"}),
                nobody.put("/task/1", json={"title": "a"}),
                nobody.delete("/compat/d/task/1"),
                nobody.post("/upload-csv", files={"file": b"title\na\n"}),
            ):
                check_d_error(response, 401)
        with open_deployment.client() as admin:
            check_json(admin.post("/task", json={"title": "a"}), 201)
