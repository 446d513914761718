"""Service B: `/api/tasks` without pages, and `/api/settings`."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.support.conformance.checks import UNICODE, UNKNOWN_ID, check_json, check_problem
from tests.support.conformance.deployments import Mount

TASKS, SETTINGS = "/api/tasks", "/api/settings"


@pytest.fixture
def task(client: httpx.Client) -> dict[str, Any]:
    """A task of service B."""
    created: dict[str, Any] = check_json(
        client.post(TASKS, json={"title": "Write", "description": "The report"}), 201
    )
    return created


@pytest.fixture
def setting(client: httpx.Client) -> dict[str, Any]:
    """A setting of service B."""
    new = {
        "key": f"theme-{uuid4().hex}",
        "value": {"colour": "green"},
        "description": "Of the pages",
    }
    created: dict[str, Any] = check_json(client.post(SETTINGS, json=new), 201)
    return created


@pytest.mark.parametrize("slash", ["", "/"])
def test_task_is_created_read_changed_and_deleted(client: httpx.Client, slash: str) -> None:
    response = client.post(f"{TASKS}{slash}", json={"title": "Write", "description": "The report"})
    created = check_json(response, 201)
    assert str(UUID(created["id"])) == created["id"]
    assert response.headers["location"].endswith(f"{TASKS}/{created['id']}")
    assert (created["title"], created["description"], created["status"]) == (
        "Write",
        "The report",
        "pending",
    )
    one = f"{TASKS}/{created['id']}{slash}"
    assert check_json(client.get(one)) == created
    changed = check_json(client.put(one, json={"title": "Read", "status": "in_progress"}))
    assert (changed["title"], changed["description"], changed["status"]) == (
        "Read",
        "The report",
        "in_progress",
    )
    assert check_json(client.get(one)) == changed
    check_json(client.delete(one), 204)
    check_problem(client.get(one), 404, "not_found")


def test_list_has_all_tasks_without_pages(client: httpx.Client) -> None:
    created = [check_json(client.post(TASKS, json={"title": f"Task {n}"}), 201) for n in range(60)]
    listed = check_json(client.get(TASKS, params={"limit": 1, "unknown": "ignored"}))
    assert [t for t in listed if t["id"] in {m["id"] for m in created}] == created


def test_tasks_are_manual_unless_they_name_a_handler(
    client: httpx.Client, task: dict[str, Any]
) -> None:
    assert task["handler"] is None
    assert (
        check_json(client.post(TASKS, json={"title": "a", "handler": "noop"}), 201)["handler"]
        == "noop"
    )


def test_response_is_accepted_as_an_update(client: httpx.Client, task: dict[str, Any]) -> None:
    assert check_json(client.put(f"{TASKS}/{task['id']}", json=task)) == task


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_is_stored_unchanged(client: httpx.Client, text: str) -> None:
    created = check_json(client.post(TASKS, json={"title": text, "description": text}), 201)
    assert (created["title"], created["description"]) == (text, text)


@pytest.mark.parametrize(
    "body", [{}, {"title": ""}, {"title": None}, {"title": "x" * 201}, {"title": "a", "tags": 1}]
)
def test_invalid_fields_are_rejected(client: httpx.Client, body: object) -> None:
    check_problem(client.post(TASKS, json=body), 422, "invalid_field")


@pytest.mark.parametrize("key", ["1", "x", UNKNOWN_ID])
def test_unknown_tasks_return_404(client: httpx.Client, key: str) -> None:
    check_problem(client.get(f"{TASKS}/{key}"), 404, "not_found")
    check_problem(client.put(f"{TASKS}/{key}", json={"title": "a"}), 404, "not_found")
    check_problem(client.delete(f"{TASKS}/{key}"), 404, "not_found")


@pytest.mark.parametrize("slash", ["", "/"])
def test_setting_is_created_read_replaced_and_deleted(
    client: httpx.Client, setting: dict[str, Any], slash: str
) -> None:
    assert (setting["value"], setting["description"]) == ({"colour": "green"}, "Of the pages")
    one = f"{SETTINGS}/{setting['key']}{slash}"
    assert check_json(client.get(one)) == setting
    replaced = check_json(client.put(one, json={"value": [1, None, "x"]}))
    assert (replaced["key"], replaced["value"], replaced["description"]) == (
        setting["key"],
        [1, None, "x"],
        None,
    )
    assert setting["key"] in [s["key"] for s in check_json(client.get(f"{SETTINGS}{slash}"))]
    check_json(client.delete(one), 204)
    for response in (client.get(one), client.delete(one)):
        check_problem(response, 404, "not_found")


def test_put_creates_a_missing_setting(client: httpx.Client) -> None:
    key = f"made-{uuid4().hex}"
    assert check_json(client.put(f"{SETTINGS}/{key}", json={"value": "on"}), 201)["key"] == key
    check_json(client.delete(f"{SETTINGS}/{key}"), 204)


def test_existing_setting_is_not_created_again(
    client: httpx.Client, setting: dict[str, Any]
) -> None:
    check_problem(client.post(SETTINGS, json={"key": setting["key"], "value": 1}), 409, "conflict")
    assert check_json(client.get(f"{SETTINGS}/{setting['key']}"))["value"] == setting["value"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"value": 1},
        {"key": "a b", "value": 1},
        {"key": "", "value": 1},
        {"key": "k" * 101, "value": 1},
    ],
)
def test_invalid_settings_are_rejected(client: httpx.Client, body: object) -> None:
    check_problem(client.post(SETTINGS, json=body), 422, "invalid_field")


def test_only_administrators_write_settings(mount: Mount, setting: dict[str, Any]) -> None:
    with mount.client("operator") as operator:
        assert check_json(operator.get(f"{SETTINGS}/{setting['key']}")) == setting
        for response in (
            operator.post(SETTINGS, json={"key": "mine", "value": 1}),
            operator.put(f"{SETTINGS}/mine", json={"value": 1}),
            operator.delete(f"{SETTINGS}/{setting['key']}"),
        ):
            assert check_problem(response, 403, "forbidden")["needs"] == "admin"


def test_missing_token_returns_401(mount: Mount) -> None:
    with mount.client(role=None) as nobody:
        for path in (TASKS, SETTINGS, f"{TASKS}/{UNKNOWN_ID}"):
            check_problem(nobody.get(path), 401, "unauthorized")


def test_repeated_request_runs_once(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    first, second = (client.post(TASKS, json={"title": "once"}, headers=headers) for _ in range(2))
    assert check_json(first, 201) == check_json(second, 201)
