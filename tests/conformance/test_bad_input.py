"""Invalid input: every error names the field, and nothing is done partially."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pytest

from tests.support.conformance.checks import (
    CREATE_PATHS,
    check_json,
    check_problem,
    create_task,
    post_text,
)
from tests.support.conformance.deployments import Deployment

NUMBERS = [
    "1e400",
    "-1e400",
    "1e-400",
    "1" * 400,
    "9" * 5_000,
    f"0.{'1' * 5_000}",
    "NaN",
    "Infinity",
    "-0",
    "1e308",
]


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    """Client with an administrator's token."""
    with deployment.client() as client:
        yield client


@pytest.mark.parametrize("depth", [100, 101, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_deeply_nested_payloads_are_rejected_by_field(
    client: httpx.Client, depth: int, pair: str
) -> None:
    opening = "[" if pair == "[]" else '{"a":'
    payload = opening * (depth - 1) + pair + pair[1] * (depth - 1)
    response = post_text(client, CREATE_PATHS[0], f'{{"title": "a", "payload": {payload}}}')
    if depth == 100:
        check_json(response, 201)
    else:
        problem = check_problem(response, 422, "invalid_field")
        assert problem["errors"] == [
            {"field": "payload", "message": "must not be nested more than 100 levels deep"}
        ]


NESTED = f"{'[' * 1_000}{']' * 1_000}"


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        (
            "POST",
            "/api/v1/tasks:batch",
            f'{{"tasks": [{{"title": "a", "payload": {NESTED}}}]}}',
            "tasks",
        ),
        (
            "POST",
            "/api/v1/tasks",
            f'{{"title": "a", "conversations": [{{"body": {NESTED}}}]}}',
            "conversations",
        ),
        ("PUT", "/api/v1/settings/deep", f'{{"value": {NESTED}}}', "value"),
        ("POST", "/api/v1/tasks", f'{{"title": "a", "tags": {NESTED}}}', "tags"),
        ("POST", "/api/v1/tasks", NESTED, "body"),
        (
            "POST",
            "/compat/c/tasks",
            f'{{"title": "a", "conversations": [{{"body": {NESTED}}}]}}',
            "conversations",
        ),
        ("POST", "/api/tasks", f'{{"payload": {NESTED}, "title": "a"}}', "payload"),
        ("PUT", "/api/settings/deep", f'{{"value": {NESTED}}}', "value"),
        ("POST", "/compat/e/tasks", f'{{"title": "[[[", "payload": {NESTED}}}', "payload"),
        ("POST", "/compat/d/login", f'{{"username": "a", "password": {NESTED}}}', "password"),
    ],
)
def test_deeply_nested_json_is_rejected_by_field_on_every_path(
    client: httpx.Client, method: str, path: str, body: str, field: str
) -> None:
    response = client.request(
        method, path, content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 422, response.text
    found = response.json()
    assert (found["error"] if "error" in found else found["detail"]).startswith(
        f"{field}: must not be nested more"
    )


@pytest.mark.parametrize(
    "path", [*CREATE_PATHS, "/task", "/api/python/v1/tasks", "/api/tasks", "/compat/c/tasks"]
)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{n[:6]} of {len(n)}")
def test_extreme_numbers_are_stored_or_rejected(
    client: httpx.Client, path: str, number: str
) -> None:
    for field in (
        "payload",
        "max_attempts",
        "timeout_seconds",
        "title",
        "due_date",
        "priority",
        "tags",
        "unknown",
    ):
        response = post_text(client, path, f'{{"title": "a", "{field}": {number}}}')
        assert response.status_code in (201, 422), (field, response.text)
        if response.status_code == 422:
            found = response.json()
            assert (found["error"] if "error" in found else found["detail"]).startswith(
                f"{field}: "
            ), response.text


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5_000, "NaN", "Infinity", "-Infinity"])
def test_numbers_that_cannot_be_stored_are_rejected_by_field(
    client: httpx.Client, number: str
) -> None:
    for payload in (number, f"[{number}]", f'{{"a": {{"b": [1, {number}]}}}}'):
        response = post_text(client, CREATE_PATHS[0], f'{{"title": "a", "payload": {payload}}}')
        assert check_problem(response, 422, "invalid_field")["errors"][0]["field"] == "payload"


@pytest.mark.parametrize(
    ("number", "value"), [("1" * 300, float("1" * 300)), ("1e308", 1e308), ("1e-400", 0), ("-0", 0)]
)
def test_numbers_within_range_are_stored(client: httpx.Client, number: str, value: float) -> None:
    made = check_json(
        post_text(client, CREATE_PATHS[0], f'{{"title": "a", "payload": {number}}}'), 201
    )
    assert float(made["payload"]) == value


HUGE_IDS = ["9" * 18, str(2**63 - 1), str(2**63), "9" * 40, "9" * 4_000]


@pytest.mark.parametrize("number", HUGE_IDS, ids=lambda n: f"of {len(n)} digits")
@pytest.mark.parametrize(
    "path", ["/compat/c/tasks/{}", "/compat/c/conversations/{}", "/task/{}", "/compat/d/task/{}"]
)
def test_huge_numeric_ids_return_404(client: httpx.Client, path: str, number: str) -> None:
    response = client.put(path.format(number), json={"title": "a", "body": 1})
    assert response.status_code == 404, response.text


def cursor_of(*values: object) -> str:
    """Encode a cursor with these values as the service does."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


CURSORS = [
    "", "x", "=", "%00", "a" * 400, "a" * 401, cursor_of(), cursor_of(10**30), cursor_of(None), cursor_of("\x00"),
    cursor_of("\ud800"), cursor_of("-priority", 0, 99999, "7b2fd675-7ff3-4204-8b8a-2a3b4a34a9fe"),
    cursor_of(10**30, "x"), cursor_of("2030-02-30T00:00:00Z", "x"), cursor_of([]), cursor_of({"a": 1}),
    base64.urlsafe_b64encode(b"\xff\xfe").decode(), base64.urlsafe_b64encode(b"[" * 200).decode(),
    base64.urlsafe_b64encode(b"[" + b"9" * 250 + b"]").decode(), base64.urlsafe_b64encode(b"[1e400]").decode(),
]  # fmt: skip


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize(
    "path",
    ["/api/v1/tasks", "/api/v1/tasks?sort=-priority", "/api/v1/users", "/api/v1/settings", "/api/v1/schedules",
     "/api/v1/daily-log?date=2026-01-01", "/api/v1/audit-log", "/compat/e/tasks", "/compat/d/tasks",
     "/compat/d/audit-log"],
)  # fmt: skip
def test_invalid_cursors_are_rejected_by_field(
    client: httpx.Client, path: str, cursor: str
) -> None:
    response = client.get(path + ("&" if "?" in path else "?") + urlencode({"cursor": cursor}))
    assert response.status_code == 422, response.text
    found = response.json()
    assert (found["error"] if "error" in found else found["detail"]).startswith("cursor: "), (
        response.text
    )


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "10000-01-01T00:00:00Z", "2030-02-29",
     "2030-02-29T10:00:00Z", "2030-13-01", "2030-04-31T00:00:00+02:00", "2030-01-01T24:30:00Z", "253402300800", "-1",
     "0.5", "1e20", "Infinity", ""],
)  # fmt: skip
@pytest.mark.parametrize("field", ["due_date", "run_at"])
def test_nonexistent_times_are_rejected_by_field(
    client: httpx.Client, field: str, moment: str
) -> None:
    for value in (
        moment,
        float(moment) if moment.replace(".", "").lstrip("-").isdigit() else moment,
    ):
        fields: dict[str, Any] = {field: value}
        problem = check_problem(create_task(client, **fields), 422, "invalid_field")
        assert [e["field"] for e in problem["errors"]] == [field]


@pytest.mark.parametrize(
    "path",
    ["/api/v1/daily-log?date={}", "/compat/d/tasks?date={}", "/api/v1/tasks?due_before={}",
     "/compat/e/tasks?created_after={}", "/api/v1/audit-log?from={}"],
)  # fmt: skip
@pytest.mark.parametrize(
    "day", ["2026-02-30", "2026-02-29", "2026-13-01", "2026-00-10", "2026-04-31", "0000-01-01"]
)
def test_nonexistent_dates_in_parameters_are_rejected_by_name(
    client: httpx.Client, path: str, day: str
) -> None:
    name = path.partition("?")[2].partition("=")[0]
    response = client.get(path.format(day))
    assert response.status_code == 422, response.text
    found = response.json()
    assert (found["error"] if "error" in found else found["detail"]).startswith(f"{name}: "), (
        response.text
    )


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("", "0 fields"),
        ("@reboot", "@reboot"),
        ("0 0 * * \x00", "character"),
        ("\uff10 0 * * *", "character"),
        ("* " * 101, "200"),
    ],
)
def test_cron_expressions_that_never_fire_are_rejected(
    client: httpx.Client, cron: str, words: str
) -> None:
    new = {"name": "never", "cron": cron, "template": {"title": "a"}}
    problem = check_problem(client.post("/api/v1/schedules", json=new), 422, "invalid_field")
    assert [e["field"] for e in problem["errors"]] == ["cron"]
    assert words in problem["detail"]
    assert "never" not in [s["name"] for s in check_json(client.get("/api/v1/schedules"))["items"]]


VALUES: list[Any] = [None, True, 7, 1.5, "x\x00y", [], [None], {}, {"a": 1}, [["x"]]]
ACCEPTED_TYPES: dict[str, tuple[type, ...]] = {
    "title": (), "description": (type(None),), "status": (), "priority": (), "assigned_to": (type(None),),
    "due_date": (type(None),), "tags": (), "handler": (type(None),), "queue": (), "run_at": (type(None),),
    "max_attempts": (type(None), int), "timeout_seconds": (type(None), int), "conversations": (),
}  # fmt: skip
"""The types in `VALUES` that each field accepts."""


@pytest.mark.parametrize("field", ACCEPTED_TYPES)
def test_values_of_a_wrong_type_are_rejected_and_nothing_is_created(
    client: httpx.Client, field: str
) -> None:
    title = uuid4().hex
    for value in VALUES:
        good = type(value) in ACCEPTED_TYPES[field] or (
            value == [] and field in ("tags", "conversations")
        )
        if good or (field == "title" and value is None):
            continue
        problem = check_problem(
            client.post(CREATE_PATHS[0], json={"title": title} | {field: value}),
            422,
            "invalid_field",
        )
        assert {e["field"].split(".")[0] for e in problem["errors"]} == {field}, value
    assert check_json(client.get(CREATE_PATHS[0], params={"text": title}))["items"] == []


@pytest.mark.parametrize("path", ["/api/v1/tasks?text={}", "/api/v1/tasks?assigned_to={}", "/api/v1/tasks?tag={}",
                                  "/api/v1/audit-log?modified_by={}", "/compat/e/tasks?handler={}",
                                  "/compat/d/tasks?text={}"])  # fmt: skip
def test_nul_in_parameters_is_rejected(client: httpx.Client, path: str) -> None:
    assert client.get(path.format("a%00b")).status_code == 422


@pytest.mark.parametrize("path", ["/api/v1/tasks/a%00b", "/api/v1/settings/a%00b", "/api/v1/users/%00", "/task/%00",
                                  "/api/v1/queues/%00", "/compat/c/tasks/%00", "/api/tasks/%00"])  # fmt: skip
def test_nul_in_paths_is_rejected(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in (404, 405, 422)


def test_nothing_is_done_if_one_part_is_invalid(client: httpx.Client) -> None:
    title = uuid4().hex
    for response in (
        client.post(
            CREATE_PATHS[0], json={"title": title, "conversations": [{"body": 1}, {"body": None}]}
        ),
        client.post(
            "/api/v1/tasks:batch",
            json={"tasks": [{"title": title}, {"title": "a", "due_date": "2001-01-01"}]},
        ),
        client.post("/compat/c/tasks", json={"title": title, "conversations": [{"body": 1}, {}]}),
        client.post(
            "/api/v1/tasks:import",
            files={"file": f"title,status\n{title},pending\nb,done\n".encode()},
        ),
        client.post(
            "/upload-csv", files={"file": f"title,status\n{title},pending\nb,done\n".encode()}
        ),
    ):
        assert response.status_code == 422, response.text
    assert check_json(client.get(CREATE_PATHS[0], params={"text": title}))["items"] == []
    made = check_json(client.post(CREATE_PATHS[0], json={"title": title}), 201)
    one = f"{CREATE_PATHS[0]}/{made['id']}"
    check_problem(
        client.patch(one, json={"title": "b", "due_date": "2001-01-01T00:00:00Z"}),
        422,
        "invalid_field",
    )
    check_problem(
        client.patch(one, json={"title": "b", "status": "processing"}), 409, "invalid_transition"
    )
    assert check_json(client.get(one)) == made
