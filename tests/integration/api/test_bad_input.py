"""Invalid requests: each gets a problem+json response that names the invalid part."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from task_service.domain.ids import new_id
from tests.support.problems import check_problem
from tests.support.task_api import TASKS, create_task

pytestmark = pytest.mark.asyncio
JSON = {"content-type": "application/json"}
DEEP: Any = "[" * 900 + "]" * 900


INVALID_FIELDS: list[tuple[str, Any]] = [
    ("title", ""),
    ("title", "   "),
    ("title", "x" * 201),
    ("title", None),
    ("title", 7),
    ("title", "a\x00b"),
    ("description", "x" * 2001),
    ("status", "done"),
    ("status", None),
    ("status", 3),
    ("priority", "huge"),
    ("priority", None),
    ("assigned_to", ""),
    ("assigned_to", "x" * 201),
    ("due_date", "2020-01-01T00:00:00Z"),
    ("due_date", "tomorrow"),
    ("due_date", "9999-12-31T23:59:59-12:00"),
    ("tags", [f"tag {n}" for n in range(11)]),
    ("tags", ["x" * 51]),
    ("tags", "home"),
    ("handler", "two words"),
    ("handler", ""),
    ("payload", "x" * 270_000),
    ("payload", {"a": "\x00"}),
    ("queue", "ä"),
    ("queue", None),
    ("run_at", "soon"),
    ("max_attempts", 0),
    ("max_attempts", 101),
    ("max_attempts", "5"),
    ("max_attempts", True),
    ("timeout_seconds", 0),
    ("timeout_seconds", 10**9),
    ("timeout_seconds", 1.5),
    ("unknown_field", 1),
    ("id", str(new_id())),
]


@pytest.mark.parametrize(
    ("field", "value"), INVALID_FIELDS, ids=lambda v: str(v)[:30].replace("\x00", "NUL")
)
async def test_every_invalid_field_is_named_on_create_and_update(
    client: httpx.AsyncClient, field: str, value: Any
) -> None:
    task = await create_task(client)
    calls = [
        client.patch(f"{TASKS}/{task['id']}", json={field: value}),
        client.put(f"{TASKS}/{task['id']}", json={field: value}),
    ]
    if not (field == "max_attempts" and value is None):
        calls.append(client.post(TASKS, json={"title": "a task"} | {field: value}))
    for call in calls:
        problem = check_problem(await call, 422, "invalid_field")
        assert [e["field"] for e in problem["errors"]] == [field] or problem["errors"][0][
            "field"
        ].startswith(f"{field}.")
        assert problem["errors"][0]["message"]
        assert field in problem["detail"]


async def test_new_task_cannot_have_a_derived_status(
    client: httpx.AsyncClient,
) -> None:
    for status in ("processing", "scheduled"):
        problem = check_problem(
            await client.post(TASKS, json={"title": "a", "status": status}), 422, "invalid_field"
        )
        assert problem["errors"][0]["field"] == "status"


async def test_all_invalid_fields_are_named_with_their_path(
    client: httpx.AsyncClient,
) -> None:
    body = {"titel": "a", "tags": ["ok", 3], "conversations": [{"body": 1}, {}, {"body": None}]}
    problem = check_problem(await client.post(TASKS, json=body), 422, "invalid_field")
    fields = {e["field"] for e in problem["errors"]}
    assert fields == {"title", "titel", "tags.1", "conversations.1.body", "conversations.2.body"}


@pytest.mark.parametrize(
    "body", ["{", "", "nul", '{"title": "a",}', '{"title": "a"} x', '{"title": "\udce4"}', DEEP]
)
async def test_malformed_json_returns_400(client: httpx.AsyncClient, body: str) -> None:
    content = body.encode(errors="surrogateescape")
    response = await client.post(
        TASKS, content=content, headers={"content-type": "application/json"}
    )
    if body in ("", DEEP):  # an empty body, and JSON that is not an object
        assert response.status_code in (400, 422)
        check_problem(response, response.status_code, response.json()["code"])
    else:
        assert response.json()["code"] in ("broken_json", "bad_request")
        check_problem(response, 400, response.json()["code"])


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "3"])
async def test_body_that_is_not_an_object_is_rejected(client: httpx.AsyncClient, body: str) -> None:
    response = await client.post(TASKS, content=body, headers={"content-type": "application/json"})
    check_problem(response, 422, "invalid_field")


async def test_values_that_cannot_be_stored_are_rejected_by_field(
    client: httpx.AsyncClient,
) -> None:
    for field, body in (
        ("title", '{"title": "\\ud800"}'),
        ("payload", '{"title": "a", "payload": "\\ud800"}'),
        ("payload", '{"title": "a", "payload": NaN}'),
        ("payload", '{"title": "a", "payload": 1e999}'),
        ("payload", '{"title": "a", "payload": ' + "[" * 101 + "]" * 101 + "}"),
    ):
        response = await client.post(
            TASKS, content=body, headers={"content-type": "application/json"}
        )
        assert check_problem(response, 422, "invalid_field")["errors"][0]["field"] == field


async def test_payload_with_the_deepest_nesting_can_be_read(client: httpx.AsyncClient) -> None:
    payload: Any = 1
    for _ in range(100):
        payload = [payload]
    task = await create_task(client, payload=payload)
    assert (await client.get(f"{TASKS}/{task['id']}")).json()["payload"] == payload


@pytest.mark.parametrize(
    ("path", "wrap"),
    [(TASKS, lambda task: task), (f"{TASKS}:batch", lambda task: {"tasks": [task]})],
)
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tags": [1] * 100_000}, "tags"),
        ({"conversations": [1] * 100_000}, "conversations"),
        ({f"field {n}": n for n in range(20_000)}, ""),
    ],
)
async def test_too_many_parts_return_a_single_error(
    client: httpx.AsyncClient,
    path: str,
    wrap: Callable[[Any], Any],
    fields: dict[str, Any],
    field: str,
) -> None:
    """One error per part would take gigabytes."""
    response = await client.post(path, json=wrap({"title": "a"} | fields))
    errors = check_problem(response, 422, "invalid_field")["errors"]
    assert len(errors) == 1
    assert errors[0]["field"].endswith(field)


async def test_at_most_a_thousand_errors_are_returned(client: httpx.AsyncClient) -> None:
    batch: dict[str, Any] = {"tasks": [{"title": "a"}]} | {f"field {n}": n for n in range(2_000)}
    response = await client.post(f"{TASKS}:batch", json=batch)
    assert len(check_problem(response, 422, "invalid_field")["errors"]) == 1_000
    named = json.dumps({"tasks": [{"title": "a"}], "\ud800": 1})
    check_problem(
        await client.post(f"{TASKS}:batch", content=named, headers=JSON), 422, "invalid_field"
    )


@pytest.mark.parametrize("charset", ["undefined", "idna", "no-such"])
@pytest.mark.parametrize("path", ["/api/v1/auth/token", f"{TASKS}:import"])
async def test_form_in_an_unknown_charset_is_a_client_error(
    client: httpx.AsyncClient, path: str, charset: str
) -> None:
    form = (
        '--x\r\nContent-Disposition: form-data; name="username"\r\n\r\n\xff..a\r\n--x--\r\n'.encode(
            "latin-1"
        )
    )
    response = await client.post(
        path,
        content=form,
        headers={"content-type": f"multipart/form-data; boundary=x; charset={charset}"},
    )
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["code"]


async def test_form_body_returns_415(client: httpx.AsyncClient) -> None:
    check_problem(await client.post(TASKS, data={"title": "a"}), 415, "unsupported_media_type")


async def test_body_over_the_limit_returns_413(client: httpx.AsyncClient) -> None:
    check_problem(await client.post(TASKS, json={"title": "x" * 1_048_576}), 413, "body_too_large")
    assert (
        await client.post(TASKS, json={"title": "a", "description": "x" * 2000})
    ).status_code == 201


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=pending", "state"),
        ("status=done", "status.0"),
        ("status=pending&status=done", "status.1"),
        ("priority=9", "priority.0"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("sort=title", "sort"),
        ("due_before=x", "due_before"),
        ("text=", "text"),
        ("text=%00", "text"),
        ("assigned_to=%00", "assigned_to"),
        ("tag=%00", "tag.0"),
        ("queue=%00", "queue"),
        ("created_after=0001-01-01T00:00:00%2B10:00", "created_after"),
        ("assigned_to=a&assigned=b", "assigned"),
        ("cursor=%00", "cursor"),
    ],
)
async def test_invalid_filter_is_named(client: httpx.AsyncClient, query: str, field: str) -> None:
    problem = check_problem(await client.get(f"{TASKS}?{query}"), 422, "invalid_field")
    assert [e["field"] for e in problem["errors"]] == [field]


async def test_unknown_query_parameter_is_rejected_on_every_operation(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(client)
    url = f"{TASKS}/{task['id']}"
    for response in (
        await client.get(f"{url}?fields=id"),
        await client.post(f"{TASKS}?dry_run=1", json={"title": "a"}),
        await client.patch(f"{url}?force=1", json={}),
        await client.delete(f"{url}?hrad=true"),
        await client.post(f"{url}:cancel?now=1"),
        await client.get(f"{url}/history?limt=3"),
        await client.get("/api/v1/queues?x=1"),
    ):
        check_problem(response, 422, "invalid_field")
    assert (await client.get(url)).status_code == 200


@pytest.mark.parametrize("key", [str(new_id()), "1", "x", "0" * 40, "%00", "..%2f..", "ä" * 50])
async def test_unknown_ids_return_404(client: httpx.AsyncClient, key: str) -> None:
    url = f"{TASKS}/{key}"
    for call in (
        client.get(url),
        client.patch(url, json={"title": "a"}),
        client.put(url, json={"title": "a"}),
        client.delete(url),
        client.delete(f"{url}?hard=true"),
        client.post(f"{url}:cancel"),
        client.post(f"{url}:retry"),
        client.get(f"{url}/history"),
        client.get(f"{url}/runs"),
        client.get(f"{url}/conversations"),
        client.post(f"{url}/conversations", json={"body": 1}),
        client.get(f"/api/v1/conversations/{key}"),
        client.patch(f"/api/v1/conversations/{key}", json={"body": 1}),
        client.delete(f"/api/v1/conversations/{key}"),
    ):
        check_problem(await call, 404, "not_found")


async def test_unknown_path_returns_404_and_wrong_method_405_with_allow(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/nothing", "/api/v1", "/api/v1/tasks/", "/api/v2/tasks", "/internal/queue"):
        check_problem(await client.get(path), 404, "not_found")
    for path, allowed in (
        (TASKS, "GET, POST"),
        (f"{TASKS}/x", "DELETE, GET, PATCH, PUT"),
        (f"{TASKS}/x:cancel", "POST"),
        ("/tasks/", "GET, POST"),
        ("/compat/c/conversations/1", "PUT"),
        ("/openapi.json", "GET, HEAD"),
    ):
        response = await client.request("TRACE", path)
        check_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed


async def test_request_id_is_echoed_if_it_is_safe(client: httpx.AsyncClient) -> None:
    assert (await client.get("/x", headers={"X-Request-ID": "abc-1"})).headers[
        "x-request-id"
    ] == "abc-1"
    for bad in ("a b", "x" * 129, "", "a{b}"):
        own = (await client.get("/x", headers={"X-Request-ID": bad})).headers["x-request-id"]
        assert own != bad
        assert len(own) == 32


async def test_internal_error_shows_no_details(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from task_service.store import tasks

    async def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(tasks, "read_task", fail)
    response = await client.get(f"{TASKS}/{new_id()}")
    check_problem(response, 500, "internal")
    assert "secret" not in response.text
