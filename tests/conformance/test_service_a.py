"""Service A: `/api/python/v1/tasks`, four fields, statuses in upper case."""

from uuid import UUID

import httpx
import pytest

from tests.support.conformance.checks import UNICODE, UNKNOWN_ID, check_json, check_problem
from tests.support.conformance.deployments import Mount

BASE = "/api/python/v1/tasks"
FIELDS = {"id", "title", "description", "status"}


@pytest.fixture
def task(client: httpx.Client) -> dict[str, str]:
    """A task of service A."""
    created: dict[str, str] = check_json(
        client.post(BASE, json={"title": "My Task", "description": "What it is"}), 201
    )
    return created


@pytest.mark.parametrize("slash", ["", "/"])
def test_task_is_created_and_read(client: httpx.Client, slash: str) -> None:
    response = client.post(f"{BASE}{slash}", json={"title": "My Task", "description": "What it is"})
    created = check_json(response, 201)
    assert created == {
        "id": created["id"],
        "title": "My Task",
        "description": "What it is",
        "status": "PENDING",
    }
    assert str(UUID(created["id"])) == created["id"]
    assert response.headers["location"].endswith(f"{BASE}/{created['id']}")
    assert check_json(client.get(f"{BASE}/{created['id']}{slash}")) == created
    assert (
        check_json(
            client.get(response.headers["location"].removeprefix(client.base_url.path.rstrip("/")))
        )
        == created
    )


def test_description_is_optional(client: httpx.Client) -> None:
    assert check_json(client.post(BASE, json={"title": "a"}), 201)["description"] is None


@pytest.mark.parametrize("word", ["IN_PROGRESS", "in_progress", "In-Progress"])
def test_update_changes_status_and_title_only(
    client: httpx.Client, task: dict[str, str], word: str
) -> None:
    wanted = {"status": word, "title": "Updated Title"}
    changed = check_json(client.put(f"{BASE}/{task['id']}", json=wanted))
    assert changed == task | {"status": "IN_PROGRESS", "title": "Updated Title"}
    assert check_json(client.get(f"{BASE}/{task['id']}")) == changed


def test_every_read_after_an_update_returns_it(client: httpx.Client, task: dict[str, str]) -> None:
    for number in range(20):
        check_json(client.put(f"{BASE}/{task['id']}", json={"title": f"Title {number}"}))
        assert [check_json(client.get(f"{BASE}/{task['id']}"))["title"] for _ in range(2)] == [
            f"Title {number}"
        ] * 2


def test_response_is_accepted_as_an_update(client: httpx.Client, task: dict[str, str]) -> None:
    assert check_json(client.put(f"{BASE}/{task['id']}", json=task)) == task


def test_task_passes_through_its_statuses(client: httpx.Client, task: dict[str, str]) -> None:
    for status in ("IN_PROGRESS", "COMPLETED", "PENDING", "CANCELLED"):
        assert (
            check_json(client.put(f"{BASE}/{task['id']}", json={"status": status}))["status"]
            == status
        )
    problem = check_problem(
        client.put(f"{BASE}/{task['id']}", json={"status": "COMPLETED"}), 409, "invalid_transition"
    )
    assert problem["allowed"] == ["pending", "in_progress"]


def test_deleted_task_returns_404(client: httpx.Client, task: dict[str, str]) -> None:
    check_json(client.get(f"{BASE}/{task['id']}"))
    check_json(client.delete(f"{BASE}/{task['id']}"), 204)
    for response in (
        client.get(f"{BASE}/{task['id']}"),
        client.put(f"{BASE}/{task['id']}", json={"title": "b"}),
        client.delete(f"{BASE}/{task['id']}"),
    ):
        check_problem(response, 404, "not_found")


def test_tasks_are_manual(
    client: httpx.Client, canonical: httpx.Client, task: dict[str, str]
) -> None:
    assert check_json(canonical.get(f"/tasks/{task['id']}"))["handler"] is None


def test_list_has_every_task_in_the_same_format(client: httpx.Client, task: dict[str, str]) -> None:
    listed = check_json(client.get(BASE))
    assert task in listed
    assert all(set(t) == FIELDS for t in listed)


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_is_stored_unchanged(client: httpx.Client, text: str) -> None:
    created = check_json(client.post(BASE, json={"title": text, "description": text}), 201)
    assert (created["title"], created["description"]) == (text, text)
    assert check_json(client.get(f"{BASE}/{created['id']}")) == created


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "title"),
        ({"title": ""}, "title"),
        ({"title": "  "}, "title"),
        ({"title": None}, "title"),
        ({"title": 7}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": "a\x00b"}, "title"),
        ({"title": "a", "description": "x" * 2001}, "description"),
        ({"title": "a", "status": "DONE"}, "status"),
        ([], "body"),
        ("text", "body"),
    ],
)
def test_invalid_fields_are_named(
    client: httpx.Client, task: dict[str, str], body: object, field: str
) -> None:
    for response in (client.post(BASE, json=body), client.put(f"{BASE}/{task['id']}", json=body)):
        if body == {} and response.request.method == "PUT":
            assert check_json(response) == task  # an empty change
            continue
        problem = check_problem(response, 422, "invalid_field")
        assert [e["field"] for e in problem["errors"]] == [field]


def test_body_that_is_not_json_is_rejected(client: httpx.Client) -> None:
    check_problem(client.post(BASE, content="{"), 400, "broken_json")
    check_problem(
        client.post(BASE, content="a=b", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    )


@pytest.mark.parametrize("key", ["1", "x", UNKNOWN_ID, "9" * 40])
def test_unknown_ids_return_404(client: httpx.Client, key: str) -> None:
    check_problem(client.get(f"{BASE}/{key}"), 404, "not_found")
    check_problem(client.put(f"{BASE}/{key}", json={"title": "a"}), 404, "not_found")
    check_problem(client.delete(f"{BASE}/{key}"), 404, "not_found")


def test_other_methods_return_405_with_the_allowed_ones(client: httpx.Client) -> None:
    response = client.patch(f"{BASE}/{UNKNOWN_ID}", json={})
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, GET, PUT"


def test_missing_token_returns_401(mount: Mount) -> None:
    with mount.client(role=None) as nobody:
        for response in (
            nobody.get(BASE),
            nobody.post(BASE, json={"title": "a"}),
            nobody.get(f"{BASE}/{UNKNOWN_ID}"),
        ):
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


def test_viewer_may_read_but_not_write(mount: Mount) -> None:
    with mount.client("viewer") as viewer:
        check_json(viewer.get(BASE))
        check_problem(viewer.post(BASE, json={"title": "a"}), 403, "forbidden")
