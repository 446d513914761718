"""Text search: words in every script, with other filters and in pages."""

from typing import Any

import asyncpg
import httpx
import pytest

from task_service.store.task_lists.text_search import SEPARATORS
from tests.support.sample_tasks import insert_sample_tasks
from tests.support.task_api import TASKS, create_task, list_tasks

pytestmark = pytest.mark.asyncio


async def titles(client: httpx.AsyncClient, text: str, **more: Any) -> list[str]:
    response = await client.get(TASKS, params={"text": text, "sort": "created_at", **more})
    assert response.status_code == 200, response.text
    return [task["title"] for task in response.json()["items"]]


async def test_all_words_must_occur_regardless_of_case_and_order(
    client: httpx.AsyncClient,
) -> None:
    await create_task(client, title="Ring Ada", description="about the BRIDGE")
    await create_task(client, title="Paint the bridge")
    assert await titles(client, "bridge") == ["Ring Ada", "Paint the bridge"]
    assert await titles(client, "Bridge ADA") == ["Ring Ada"]
    assert await titles(client, "  the\tbridge ") == ["Ring Ada", "Paint the bridge"], (
        "there are no stop words"
    )
    assert await titles(client, "bridge tunnel") == []


async def test_whole_words_match_and_prefixes_match_with_a_star(
    client: httpx.AsyncClient,
) -> None:
    await create_task(client, title="Telephone bill")
    assert await titles(client, "tele") == []
    assert await titles(client, "TELE*") == ["Telephone bill"]
    assert await titles(client, "phone*") == []
    assert await titles(client, "tele* bi*") == ["Telephone bill"]
    assert await titles(client, "bills") == [], "words are not reduced to stems"


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Überprüfung der Straße", "ÜBERPRÜFUNG straße"),
        ("Позвонить Анне", "анне ПОЗВОНИТЬ"),
        ("Κλήση στην Άννα", "ΆΝΝΑ"),
        ("明天 会议", "会议"),
        ("明天的会议", "明天*"),
        ("اتصل بآنا", "بآنا"),
        ("फ़ोन करो", "करो"),
        ("e-mail ada@example.org", "example mail ada"),
        ("e-mail ada@example.org", "ada@example.org"),
        ("release 2.10.3 of x/y", "2.10.3 x/y"),
        ("“quoted”—dashed…", "dashed quoted"),
        ("it's Ada\u2019s", "ada it"),
        ("room_12 100%", "room_12"),
        ("C:\\temp\\new & 'old' | x:y !z", "temp & old | !z <-> x:y"),
    ],
)
async def test_words_in_every_script_and_with_any_punctuation_are_found(
    client: httpx.AsyncClient, title: str, text: str
) -> None:
    await create_task(client, title=title)
    await create_task(client, title="another")
    assert await titles(client, text) == [title]


@pytest.mark.parametrize("text", ["%", "--", "* ' \\ :*", "“”…", "&|!"])
async def test_text_without_words_finds_nothing(client: httpx.AsyncClient, text: str) -> None:
    await create_task(client, title="party 100% -- '")
    assert await titles(client, text) == []


async def test_text_search_combines_with_filters_and_every_order(client: httpx.AsyncClient) -> None:
    for number in range(4):
        await create_task(
            client,
            title=f"tea {number}",
            assigned_to="ada" if number % 2 else None,
            priority="high",
        )
    await create_task(client, title="milk", assigned_to="ada", priority="high")
    assert await titles(client, "tea", assigned_to="ada") == ["tea 1", "tea 3"]
    assert await titles(client, "tea", status="pending", priority="high") == [
        f"tea {n}" for n in range(4)
    ]
    assert await titles(client, "tea", status="completed") == []
    for sort in ("-created_at", "due_date", "-priority", "updated_at"):
        found = [t["title"] for t in await list_tasks(client, text="tea", sort=sort, limit=1)]
        assert sorted(found) == [f"tea {n}" for n in range(4)], sort


async def test_search_follows_changes_and_deletions(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(client, title="before")
    await client.patch(f"{TASKS}/{task['id']}", json={"title": "after", "description": "and more"})
    assert (await titles(client, "before"), await titles(client, "after more")) == ([], ["after"])
    await client.delete(f"{TASKS}/{task['id']}")
    assert await titles(client, "after") == []


async def test_every_query_plan_finds_the_same_tasks(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    """Pages with frequent, rare and absent words contain what a scan of every task finds."""
    await insert_sample_tasks(connection, 3000)
    others: list[tuple[dict[str, Any], str]] = [
        ({}, "true"),
        ({"status": ["failed", "pending"]}, "status IN ('failed', 'pending')"),
        ({"tag": "all"}, "tags @> '{all}'"),
        ({"assigned_to": "person 7"}, "assigned_to = 'person 7'"),
    ]
    for text, pattern in (
        ("TASK", "task"),
        ("task 17*", "task 17"),
        ("2999", "2999$"),
        ("nowhere 7", "nowhere"),
    ):
        for query, condition in others:
            rows = await connection.fetch(
                f"SELECT id FROM task_view WHERE title ~ $1 AND {condition} ORDER BY created_at DESC, id DESC",
                pattern,
            )
            found = await list_tasks(client, text=text, limit=200, **query)
            assert [t["id"] for t in found] == [str(row["id"]) for row in rows], (text, query)


async def test_index_and_query_split_words_at_the_same_separators(
    connection: asyncpg.Connection,
) -> None:
    for separator in SEPARATORS:
        lexemes = await connection.fetchval(
            "SELECT tsvector_to_array(task_words($1, NULL))", f"ab{separator}cd"
        )
        assert lexemes == ["ab", "cd"], separator
