"""Schedules over the API. `worker/test_scheduler.py` tests how they run."""

from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from tests.support.problems import check_field_error, check_problem

pytestmark = pytest.mark.asyncio
PATH = "/api/v1/schedules"
WATER = {
    "name": "water",
    "cron": "0 8 * * MON-FRI",
    "time_zone": "Europe/Berlin",
    "template": {"title": "Water"},
}

INVALID: list[tuple[str, Any, str]] = [
    ("cron", "0 0 30 2 *", "never fires"),
    ("cron", "0 0 * * * *", "has 6 fields"),
    ("cron", "0 99 * * *", "invalid field hour: '99'"),
    ("cron", "@reboot", "nickname"),
    ("cron", "* * * * \u6708", "character"),
    ("cron", "\x00", "fields"),
    ("cron", "*" * 100_000, ""),
    ("cron", 5, ""),
    ("cron", None, ""),
    ("time_zone", "Mars/Olympus", "unknown time zone"),
    ("time_zone", "../../../etc/passwd", "unknown time zone"),
    ("time_zone", None, ""),
    ("name", "", ""),
    ("name", "a b", ""),
    ("name", "\u6708" * 10, ""),
    ("catch_up", "some", ""),
    ("enabled", "yes", ""),
    ("template", {"title": ""}, "1 to 200"),
    ("template", {"title": "x", "run_at": "2030-01-01"}, "unknown field"),
    ("template", {"title": "x", "status": "processing"}, "cannot be"),
    ("template", {"title": "x", "payload": "\x00"}, "NUL"),
    ("template", {"title": "x", "payload": {"a": "x" * 262_130}}, "262144"),
    ("template", {"title": "x", "due_date": "2020-01-01"}, "future"),
    ("template", [], ""),
    ("template", None, ""),
]


async def create_schedule(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    response = await client.post(PATH, json=WATER | more)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def create_builtin_schedule(app: FastAPI) -> None:
    """Create the built-in schedule, as every worker does when it starts."""
    from task_service.services.schedules import ensure_daily_log_schedule

    await app.state.transactions.write(ensure_daily_log_schedule)


async def test_schedule_is_created_read_changed_and_deleted(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=WATER)
    made = response.json()
    assert (response.status_code, response.headers["location"]) == (201, f"{PATH}/{made['id']}")
    assert made["template"] == {"title": "Water"}
    assert (made["action"], made["catch_up"], made["enabled"], made["created_by"]) == (
        "task",
        "last",
        True,
        "anonymous",
    )
    next_run = datetime.fromisoformat(made["next_run_at"])
    assert next_run > datetime.now(next_run.tzinfo)
    read = await client.get(f"{PATH}/{made['id']}")
    assert (read.json(), read.headers["etag"]) == (made, response.headers["etag"])
    same = await client.get(f"{PATH}/{made['id']}", headers={"If-None-Match": read.headers["etag"]})
    assert same.status_code == 304
    changed = await client.patch(
        f"{PATH}/{made['id']}", json={"cron": "@hourly", "catch_up": "all"}
    )
    assert (changed.json()["cron"], changed.json()["catch_up"], changed.json()["version"]) == (
        "@hourly",
        "all",
        2,
    )
    assert changed.json()["next_run_at"].endswith(":00:00Z")
    assert changed.json()["name"] == "water"
    assert (await client.delete(f"{PATH}/{made['id']}")).status_code == 204
    check_problem(await client.get(f"{PATH}/{made['id']}"), 404, "not_found")


async def test_disabled_schedule_has_no_next_run(client: httpx.AsyncClient) -> None:
    made = await create_schedule(client, enabled=False)
    assert made["next_run_at"] is None
    on = (await client.patch(f"{PATH}/{made['id']}", json={"enabled": True})).json()
    assert on["next_run_at"] is not None
    off = (await client.patch(f"{PATH}/{made['id']}", json={"enabled": False})).json()
    assert off["next_run_at"] is None


async def test_if_match_protects_change_and_deletion(client: httpx.AsyncClient) -> None:
    made = await client.post(PATH, json=WATER)
    path, old = f"{PATH}/{made.json()['id']}", made.headers["etag"]
    ran = await client.post(f"{path}:run")
    assert ran.headers["etag"] != old
    changed = await client.patch(path, json={"name": "rain"}, headers={"If-Match": old})
    assert changed.status_code == 200, "a run does not change the version for editors"
    check_problem(
        await client.patch(path, json={"name": "sun"}, headers={"If-Match": old}),
        412,
        "stale_version",
    )
    check_problem(await client.delete(path, headers={"If-Match": old}), 412, "stale_version")
    assert (
        await client.delete(path, headers={"If-Match": changed.headers["etag"]})
    ).status_code == 204


async def test_names_are_unique(client: httpx.AsyncClient) -> None:
    await create_schedule(client)
    check_problem(await client.post(PATH, json=WATER), 409, "conflict")
    other = await create_schedule(client, name="other")
    check_problem(
        await client.patch(f"{PATH}/{other['id']}", json={"name": "water"}), 409, "conflict"
    )
    check_problem(await client.post(PATH, json=WATER | {"name": "daily-log"}), 409, "conflict")
    check_problem(
        await client.patch(f"{PATH}/{other['id']}", json={"name": "daily-log"}), 409, "conflict"
    )


async def test_pages_are_sorted_by_name(client: httpx.AsyncClient) -> None:
    for name in "cabd":
        await create_schedule(client, name=name)
    first = (await client.get(PATH, params={"limit": 3})).json()
    rest = (await client.get(PATH, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [s["name"] for s in first["items"] + rest["items"]] == list("abcd")
    check_field_error(await client.get(PATH, params={"cursor": "x"}), "cursor")


async def test_run_creates_the_task_now_and_keeps_the_next_run(client: httpx.AsyncClient) -> None:
    template = {
        "title": "Rain",
        "handler": "noop",
        "queue": "garden",
        "payload": {"litres": 3},
        "priority": "HIGH",
    }
    made = await create_schedule(client, template=template, enabled=False)
    ran = (await client.post(f"{PATH}/{made['id']}:run")).json()
    assert (ran["next_run_at"], ran["last_error"], ran["version"]) == (None, None, 1)
    task = (await client.get(f"/api/v1/tasks/{ran['last_task_id']}")).json()
    assert (task["title"], task["priority"], task["queue"], task["status"]) == (
        "Rain",
        "high",
        "garden",
        "pending",
    )
    assert task["created_by"] == "schedule:water"
    assert task["payload"] == {"litres": 3, "scheduled_for": ran["last_run_at"]}


async def test_payload_that_is_not_an_object_is_unchanged(client: httpx.AsyncClient) -> None:
    for payload in ([1], "x", 0, False):
        made = await create_schedule(
            client, name=f"s{type(payload).__name__}", template={"title": "x", "payload": payload}
        )
        ran = (await client.post(f"{PATH}/{made['id']}:run")).json()
        assert (await client.get(f"/api/v1/tasks/{ran['last_task_id']}")).json()[
            "payload"
        ] == payload


async def test_template_with_a_past_due_date_cannot_be_run(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    soon = datetime.now().astimezone() + timedelta(hours=1)
    made = await create_schedule(client, template={"title": "x", "due_date": soon.isoformat()})
    old = {"title": "x", "due_date": "2020-01-01T00:00:00Z"}
    check_field_error(
        await client.patch(f"{PATH}/{made['id']}", json={"template": old}), "template"
    )
    await connection.execute(
        "UPDATE schedules SET template = jsonb_set(template, '{due_date}', '\"2020-01-01\"')"
    )
    check_field_error(await client.post(f"{PATH}/{made['id']}:run"), "template")
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


async def test_builtin_schedule_of_the_daily_log_can_only_be_disabled(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await create_builtin_schedule(app)
    [own] = (await client.get(PATH)).json()["items"]
    assert (own["name"], own["action"], own["template"], own["cron"]) == (
        "daily-log",
        "daily_log",
        None,
        "5 0 * * *",
    )
    path = f"{PATH}/{own['id']}"
    check_problem(await client.delete(path), 409, "conflict")
    check_problem(await client.patch(path, json={"cron": "@daily"}), 409, "conflict")
    off = (await client.patch(path, json={"enabled": False})).json()
    assert (off["enabled"], off["next_run_at"]) == (False, None)
    await create_builtin_schedule(app)
    assert (await client.get(path)).json()["enabled"] is False, "a start does not enable it"
    await client.post("/api/v1/tasks", json={"title": "open"})
    ran = (await client.post(f"{path}:run")).json()
    assert ran["last_run_at"] is not None
    assert len((await client.get("/api/v1/daily-log")).json()["items"]) == 1


async def test_invalid_fields_are_named(client: httpx.AsyncClient) -> None:
    made = await create_schedule(client)
    for field, value, message in INVALID:
        for response in (
            await client.post(PATH, json=WATER | {"name": "new", field: value}),
            await client.patch(f"{PATH}/{made['id']}", json={field: value}),
        ):
            assert message in check_field_error(response, field), (field, value)


async def test_unknown_schedules_return_404(client: httpx.AsyncClient) -> None:
    for key in ("0195d6a2-8c4f-7a3e-9a51-3f6f2d1c0b4a", "nonsense", "%00"):
        for method in ("GET", "PATCH", "DELETE"):
            response = await client.request(
                method, f"{PATH}/{key}", json={} if method == "PATCH" else None
            )
            check_problem(response, 404, "not_found")
    check_problem(await client.post(f"{PATH}/nonsense:run"), 404, "not_found")
