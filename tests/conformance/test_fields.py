"""Properties of the field rules: any input is stored as the rules require, or rejected by name."""

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
"""Characters of every category, including control, private-use and surrogate characters."""
BIG = st.text(st.sampled_from("aé日👩 \n"), min_size=190, max_size=210)


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    """Client with an administrator's token."""
    with deployment.client() as client:
        yield client


def as_decoded(text: str) -> str:
    """Return the text as JSON decodes it: a surrogate pair becomes one character."""
    read: str = json.loads(json.dumps(text))
    return read


def is_storable(text: str) -> bool:
    """Check that PostgreSQL can store the text."""
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


@many
@given(text=TEXT | BIG, path=st.sampled_from(CREATE_PATHS))
def test_titles_are_stripped_or_rejected(client: httpx.Client, text: str, path: str) -> None:
    response, text = create_task(client, path, title=text), as_decoded(text)
    if is_storable(text) and 1 <= len(text.strip()) <= 200:
        assert check_json(response, 201)["title"] == text.strip()
    else:
        assert [e["field"] for e in check_problem(response, 422, "invalid_field")["errors"]] == [
            "title"
        ]


@many
@given(text=TEXT, times=st.sampled_from([1, 30, 40]))
def test_descriptions_are_stripped_or_rejected(client: httpx.Client, text: str, times: int) -> None:
    response, text = create_task(client, description=text * times), as_decoded(text * times)
    if is_storable(text) and len(text.strip()) <= 2000:
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
def test_tags_are_deduplicated_or_rejected(client: httpx.Client, tags: list[str]) -> None:
    response, tags = create_task(client, tags=tags), [as_decoded(t) for t in tags]
    expected: dict[str, str] = {}
    for tag in tags:
        if tag.strip():
            expected.setdefault(tag.strip().casefold(), tag.strip())
    fits = len(expected) <= 10 and all(len(t.strip()) <= 50 for t in tags)
    if fits and all(is_storable(t) for t in tags):
        assert check_json(response, 201)["tags"] == list(expected.values())
    else:
        check_problem(response, 422, "invalid_field")


ZONES = st.none() | st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@many
@given(due=st.datetimes(timezones=ZONES))
def test_due_dates_are_stored_or_rejected(client: httpx.Client, due: datetime) -> None:
    response = create_task(client, due_date=due.isoformat())
    try:
        moment = (due if due.tzinfo else due.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        moment = None
    now = datetime.now(UTC)
    if moment is not None and abs(moment - now) < timedelta(minutes=5):
        return  # the clocks of test and service may differ
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
def test_status_is_normalized_or_rejected(
    client: httpx.Client, word: str, flips: int, joint: str, blank: bool
) -> None:
    variant = "".join(c.upper() if flips >> n & 1 else c for n, c in enumerate(word)).replace(
        "_", joint
    )
    response = create_task(client, status=f" {variant} " if blank else variant)
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
    """List every string in a JSON value, including names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts_of(inner)


def is_same(sent: Any, read: Any) -> bool:
    """Compare JSON values; numbers by value, because 65e15 is returned as 65000000000000000."""
    if isinstance(sent, float):
        return isinstance(read, int | float) and not isinstance(read, bool) and float(read) == sent
    if isinstance(sent, list):
        return isinstance(read, list) and len(sent) == len(read) and all(map(is_same, sent, read))
    if isinstance(sent, dict):
        return (
            isinstance(read, dict)
            and sent.keys() == read.keys()
            and all(is_same(sent[k], read[k]) for k in sent)
        )
    return type(sent) is type(read) and bool(sent == read)


@many
@given(payload=JSON)
def test_payloads_are_returned_unchanged_or_rejected(client: httpx.Client, payload: Any) -> None:
    response, payload = create_task(client, payload=payload), json.loads(json.dumps(payload))
    if all(map(is_storable, texts_of(payload))):
        made = check_json(response, 201)
        assert is_same(payload, made["payload"])
        assert is_same(
            payload, check_json(client.get(f"{CREATE_PATHS[0]}/{made['id']}"))["payload"]
        )
    else:
        assert check_problem(response, 422, "invalid_field")["errors"][0]["field"] == "payload"
