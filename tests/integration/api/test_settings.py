"""Application settings: `/api/v1/settings`."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.problems import check_field_error, check_problem

pytestmark = pytest.mark.asyncio
PATH = "/api/v1/settings"


async def put(client: httpx.AsyncClient, key: str, value: Any = 1, **more: Any) -> httpx.Response:
    return await client.put(f"{PATH}/{key}", json={"value": value}, **more)


async def test_setting_is_created_replaced_read_and_deleted(client: httpx.AsyncClient) -> None:
    made = await client.put(
        f"{PATH}/theme", json={"value": {"colour": "green"}, "description": "Of the app"}
    )
    assert made.status_code == 201
    assert made.headers["location"] == f"{PATH}/theme"
    assert {k: made.json()[k] for k in ("key", "value", "description", "version", "updated_by")} == {
        "key": "theme", "value": {"colour": "green"}, "description": "Of the app", "version": 1, "updated_by": "anonymous",
    }  # fmt: skip
    again = await put(client, "theme", [1, None, "x"])
    assert (again.status_code, again.json()["version"]) == (200, 2)
    read = await client.get(f"{PATH}/theme")
    assert (read.json()["value"], read.json()["description"]) == ([1, None, "x"], None)
    assert read.headers["etag"] == again.headers["etag"] != made.headers["etag"]
    assert (await client.delete(f"{PATH}/theme")).status_code == 204
    check_problem(await client.get(f"{PATH}/theme"), 404, "not_found")
    check_problem(await client.delete(f"{PATH}/theme"), 404, "not_found")


async def test_every_json_value_is_returned_unchanged(client: httpx.AsyncClient) -> None:
    values: list[Any] = [None, False, 0, "", "\u00e4\u6f22\U0001f600", 2.5, 10**30]
    for value in (*values, [], {}, {"a": [{}]}):
        assert (await put(client, "a.b:c-d_1", value)).is_success
        assert (await client.get(f"{PATH}/a.b:c-d_1")).json()["value"] == value


async def test_pages_are_sorted_by_key(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await put(client, f"key{number}")
    first = (await client.get(PATH, params={"limit": 3})).json()
    rest = (await client.get(PATH, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [s["key"] for s in first["items"] + rest["items"]] == [f"key{n}" for n in range(5)]
    assert rest["next_cursor"] is None
    check_field_error(await client.get(PATH, params={"cursor": "nonsense"}), "cursor")


async def test_if_match_protects_change_and_deletion(client: httpx.AsyncClient) -> None:
    old = (await put(client, "k", 1)).headers["etag"]
    new = (await put(client, "k", 2, headers={"If-Match": old})).headers["etag"]
    check_problem(await put(client, "k", 3, headers={"If-Match": old}), 412, "stale_version")
    check_problem(await client.delete(f"{PATH}/k", headers={"If-Match": old}), 412, "stale_version")
    assert (await client.get(f"{PATH}/k", headers={"If-None-Match": new})).status_code == 304
    check_problem(await put(client, "other", headers={"If-Match": "*"}), 412, "stale_version")
    assert (await client.delete(f"{PATH}/k", headers={"If-Match": new})).status_code == 204
    recreated = await put(client, "k", 1)
    assert recreated.headers["etag"] != old, "a recreated setting has another version"


async def test_if_none_match_creates_a_setting_once(client: httpx.AsyncClient) -> None:
    only_new = {"If-None-Match": "*"}
    responses = await asyncio.gather(
        *(put(client, "leader", n, headers=only_new) for n in range(8))
    )
    assert sorted(a.status_code for a in responses) == [201] + [412] * 7
    winner = next(n for n, a in enumerate(responses) if a.status_code == 201)
    assert (await client.get(f"{PATH}/leader")).json()["value"] == winner


async def test_concurrent_changes_with_if_match_are_not_lost(client: httpx.AsyncClient) -> None:
    await put(client, "counter", 0)

    async def add() -> None:
        while True:
            read = await client.get(f"{PATH}/counter")
            changed = await put(
                client,
                "counter",
                read.json()["value"] + 1,
                headers={"If-Match": read.headers["etag"]},
            )
            if changed.status_code == 200:
                return

    await asyncio.gather(*(add() for _ in range(8)))
    assert (await client.get(f"{PATH}/counter")).json()["value"] == 8


async def test_invalid_key_is_rejected(client: httpx.AsyncClient) -> None:
    for key in ("a b", "\u00e4", "x" * 101, "a%0Ab", "%00", "a%2Fb%3F", "a$"):
        for method in ("GET", "PUT", "DELETE"):
            response = await client.request(
                method, f"{PATH}/{key}", json={"value": 1} if method == "PUT" else None
            )
            assert response.status_code in (404, 422), (method, key, response.text)


INVALID: list[tuple[bytes, str]] = [
    (b"{}", "value"),
    (b'{"value": 1, "other": 2}', "other"),
    (b'{"value": "%s"}' % (b"x" * 65_537), "value"),
    (b'{"value": 1e999}', "value"),
    (b'{"value": "\\u0000"}', "value"),
    (b'{"value": %s}' % (b"[" * 101 + b"]" * 101), "value"),
    (b'{"value": 1, "description": 7}', "description"),
    (b'{"value": 1, "description": "%s"}' % (b"x" * 2001), "description"),
]


async def test_invalid_value_is_named(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    for body, field in INVALID:
        check_field_error(await client.put(f"{PATH}/k", content=body, headers=headers), field)
    deep = b'{"value": %s}' % (b"[" * 100_000 + b"]" * 100_000)
    assert (await client.put(f"{PATH}/k", content=deep, headers=headers)).status_code in (400, 422)
