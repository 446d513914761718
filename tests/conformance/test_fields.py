"""The field rules as properties: whatever is sent, it is kept as the rules say, or refused by name; never a fault."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conformance.checks import CREATE_PATHS, check_json, check_problem, create_task
from tests.support.conformance.deployments import Deployment

EXAMPLES = int(os.environ.get("FIELD_EXAMPLES", "60"))
many = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
"""Characters of every category: controls, private ones, lone surrogates too."""
BIG = st.text(st.sampled_from("aé日👩 \n"), min_size=190, max_size=210)


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    """A client with an administrator's token."""
    with deployment.client() as client:
        yield client


def as_read(text: str) -> str:
    """What JSON makes of a text: two halves of a surrogate pair are one character."""
    read: str = json.loads(json.dumps(text))
    return read


def can_be_kept(text: str) -> bool:
    """Whether PostgreSQL can hold it."""
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


@many
@given(text=TEXT | BIG, path=st.sampled_from(CREATE_PATHS))
def test_titles(client: httpx.Client, text: str, path: str) -> None:
    response, text = create_task(client, path, title=text), as_read(text)
    if can_be_kept(text) and 1 <= len(text.strip()) <= 200:
        assert check_json(response, 201)["title"] == text.strip()
    else:
        assert [e["field"] for e in check_problem(response, 422, "invalid_field")["errors"]] == [
            "title"
        ]


@many
@given(text=TEXT, times=st.sampled_from([1, 30, 40]))
def test_descriptions(client: httpx.Client, text: str, times: int) -> None:
    response, text = create_task(client, description=text * times), as_read(text * times)
    if can_be_kept(text) and len(text.strip()) <= 2000:
        assert check_json(response, 201)["description"] == text.strip()
    else:
        check_problem(response, 422, "invalid_field")


@many
@given(
    tags=st.lists(
        TEXT | st.sampled_from(["Home", "home", "HOME ", "ß", "SS", "x" * 50, "x" * 51]),
        max_size=14,
    )
)
def test_tags(client: httpx.Client, tags: list[str]) -> None:
    response, tags = create_task(client, tags=tags), [as_read(t) for t in tags]
    kept: dict[str, str] = {}
    for tag in tags:
        if tag.strip():
            kept.setdefault(tag.strip().casefold(), tag.strip())
    fits = len(kept) <= 10 and all(len(t.strip()) <= 50 for t in tags)
    if fits and all(can_be_kept(t) for t in tags):
        assert check_json(response, 201)["tags"] == list(kept.values())
    else:
        check_problem(response, 422, "invalid_field")


ZONES = st.none() | st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@many
@given(due=st.datetimes(timezones=ZONES))
def test_due_dates(client: httpx.Client, due: datetime) -> None:
    response = create_task(client, due_date=due.isoformat())
    try:
        moment = (due if due.tzinfo else due.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        moment = None
    now = datetime.now(UTC)
    if moment is not None and abs(moment - now) < timedelta(minutes=5):
        return  # whose clock decides is not the question here
    if moment is not None and moment > now:
        assert datetime.fromisoformat(check_json(response, 201)["due_date"]) == moment
    else:
        assert [e["field"] for e in check_problem(response, 422, "invalid_field")["errors"]] == [
            "due_date"
        ]


WORDS = [
    "pending",
    "scheduled",
    "processing",
    "in_progress",
    "completed",
    "failed",
    "cancelled",
    "active",
    "done",
    "",
]


@many
@given(
    word=st.sampled_from(WORDS),
    flips=st.integers(0, 2**12),
    joint=st.sampled_from("_- "),
    blank=st.booleans(),
)
def test_status_words(client: httpx.Client, word: str, flips: int, joint: str, blank: bool) -> None:
    said = "".join(c.upper() if flips >> n & 1 else c for n, c in enumerate(word)).replace(
        "_", joint
    )
    response = create_task(client, status=f" {said} " if blank else said)
    if word in ("pending", "in_progress", "completed", "failed", "cancelled"):
        assert check_json(response, 201)["status"] == word
    else:
        assert [e["field"] for e in check_problem(response, 422, "invalid_field")["errors"]] == [
            "status"
        ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a JSON value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts_of(inner)


def same(sent: Any, read: Any) -> bool:
    """Whether a JSON value came back: of numbers the value, not the spelling (65e15 reads 65000000000000000)."""
    if isinstance(sent, float):
        return isinstance(read, int | float) and not isinstance(read, bool) and float(read) == sent
    if isinstance(sent, list):
        return isinstance(read, list) and len(sent) == len(read) and all(map(same, sent, read))
    if isinstance(sent, dict):
        return (
            isinstance(read, dict)
            and sent.keys() == read.keys()
            and all(same(sent[k], read[k]) for k in sent)
        )
    return type(sent) is type(read) and bool(sent == read)


@many
@given(payload=JSON)
def test_payloads(client: httpx.Client, payload: Any) -> None:
    response, payload = create_task(client, payload=payload), json.loads(json.dumps(payload))
    if all(map(can_be_kept, texts_of(payload))):
        made = check_json(response, 201)
        assert same(payload, made["payload"])
        assert same(payload, check_json(client.get(f"{CREATE_PATHS[0]}/{made['id']}"))["payload"])
    else:
        assert check_problem(response, 422, "invalid_field")["errors"][0]["field"] == "payload"
