"""Event ids: where a stream resumes, and which ids are invalid."""

from uuid import uuid4

import httpx
import pytest

from tests.support.event_streams import EVENTS
from tests.support.problems import check_field_error
from tests.support.sse import open_stream
from tests.support.task_api import create_task

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    "event_id",
    [
        "x",
        "-1",
        "1.",
        "1.2.3",
        "1.-2",
        " 1",
        "1 2",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "1e3",
        "9" * 19,
        "9" * 5000,
        f"1.{uuid4()}",
        "1.2;DROP",
    ],
)
async def test_invalid_event_ids_are_rejected_by_name(
    api: httpx.AsyncClient, event_id: str
) -> None:
    message = check_field_error(
        await api.get(EVENTS, params={"last_event_id": event_id}), "last_event_id"
    )
    assert "start now" in message
    header = event_id.encode().strip() or b"x"
    response = await api.get(EVENTS, headers={b"Last-Event-ID": b"~" + header})
    assert "start now" in check_field_error(response, "Last-Event-ID")


async def test_unknown_and_invalid_filters_are_rejected_by_name(api: httpx.AsyncClient) -> None:
    for name, value in (
        ("event", "task.eaten"),
        ("status", "done"),
        ("task_id", "7"),
        ("queue", "a b"),
        ("que", "a"),
    ):
        check_field_error(await api.get(EVENTS, params={name: value}), name)


async def test_last_event_id_header_overrides_the_query_parameter(
    api: httpx.AsyncClient, url: str
) -> None:
    for _ in range(3):
        await create_task(api)
    async with open_stream(url + EVENTS, last_event_id="0") as stream:
        await stream.wait_for_count(3)
    async with open_stream(url + EVENTS, stream.messages[1].id, last_event_id="0") as rest:
        await rest.wait_for_count(1)
        assert rest.messages == stream.messages[2:]


async def test_stream_without_events_has_an_id_to_resume_from(
    api: httpx.AsyncClient, url: str
) -> None:
    async with open_stream(url + EVENTS) as stream:
        assert stream.last_id
    task = await create_task(api)
    async with open_stream(url + EVENTS, stream.last_id) as again:
        await again.wait_for_count(1)
        assert again.summaries() == [(task["id"], "created")]


async def test_id_of_another_database_causes_a_reset_event(
    api: httpx.AsyncClient, url: str
) -> None:
    await create_task(api)
    async with open_stream(url + EVENTS, "4000000000.7") as stream:
        [reset] = await stream.wait_for_count(1)
        assert reset.event == "reset"
        task = await create_task(api)
        await stream.wait_for_count(2)
        assert (stream.messages[1].event, stream.messages[1].data["task_id"]) == (
            "task.created",
            task["id"],
        )
    async with open_stream(url + EVENTS, reset.id) as again:
        await again.wait_for_count(1)
        assert again.messages == stream.messages[1:]
