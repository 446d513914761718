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

from tests.conformance.checks import is_problem, json_of
from tests.conformance.product import Product

EXAMPLES = int(os.environ.get("FIELD_EXAMPLES", "60"))
many = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
"""Characters of every category: controls, private ones, lone surrogates too."""
BIG = st.text(st.sampled_from("aé日👩 \n"), min_size=190, max_size=210)
PATHS = ("/api/v1/tasks", "/compat/e/tasks")


@pytest.fixture(scope="module")
def client(product: Product) -> Iterator[httpx.Client]:
    """A client with an administrator's token."""
    with product.client() as client:
        yield client


def send(client: httpx.Client, path: str = PATHS[0], **fields: Any) -> httpx.Response:
    """Create a task of these fields; JSON in ASCII can say what UTF-8 cannot."""
    body = json.dumps({"title": "a"} | fields)
    return client.post(path, content=body, headers={"Content-Type": "application/json"})


def as_read(text: str) -> str:
    """What JSON makes of a text: two halves of a surrogate pair are one character."""
    read: str = json.loads(json.dumps(text))
    return read


def can_be_kept(text: str) -> bool:
    """Whether PostgreSQL can hold it."""
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


@many
@given(text=TEXT | BIG, path=st.sampled_from(PATHS))
def test_titles(client: httpx.Client, text: str, path: str) -> None:
    answer, text = send(client, path, title=text), as_read(text)
    if can_be_kept(text) and 1 <= len(text.strip()) <= 200:
        assert json_of(answer, 201)["title"] == text.strip()
    else:
        assert [e["field"] for e in is_problem(answer, 422, "invalid_field")["errors"]] == ["title"]


@many
@given(text=TEXT, times=st.sampled_from([1, 30, 40]))
def test_descriptions(client: httpx.Client, text: str, times: int) -> None:
    answer, text = send(client, description=text * times), as_read(text * times)
    if can_be_kept(text) and len(text.strip()) <= 2000:
        assert json_of(answer, 201)["description"] == text.strip()
    else:
        is_problem(answer, 422, "invalid_field")


@many
@given(tags=st.lists(TEXT | st.sampled_from(["Home", "home", "HOME ", "ß", "SS", "x" * 50, "x" * 51]), max_size=14))
def test_tags(client: httpx.Client, tags: list[str]) -> None:
    answer, tags = send(client, tags=tags), [as_read(t) for t in tags]
    kept: dict[str, str] = {}
    for tag in tags:
        if tag.strip():
            kept.setdefault(tag.strip().casefold(), tag.strip())
    fits = len(kept) <= 10 and all(len(t.strip()) <= 50 for t in tags)
    if fits and all(can_be_kept(t) for t in tags):
        assert json_of(answer, 201)["tags"] == list(kept.values())
    else:
        is_problem(answer, 422, "invalid_field")


ZONES = st.none() | st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@many
@given(due=st.datetimes(timezones=ZONES))
def test_due_dates(client: httpx.Client, due: datetime) -> None:
    answer = send(client, due_date=due.isoformat())
    try:
        moment = (due if due.tzinfo else due.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        moment = None
    now = datetime.now(UTC)
    if moment is not None and abs(moment - now) < timedelta(minutes=5):
        return  # whose clock decides is not the question here
    if moment is not None and moment > now:
        assert datetime.fromisoformat(json_of(answer, 201)["due_date"]) == moment
    else:
        assert [e["field"] for e in is_problem(answer, 422, "invalid_field")["errors"]] == ["due_date"]


WORDS = ["pending", "scheduled", "processing", "in_progress", "completed", "failed", "cancelled", "active", "done", ""]


@many
@given(word=st.sampled_from(WORDS), flips=st.integers(0, 2**12), joint=st.sampled_from("_- "), blank=st.booleans())
def test_status_words(client: httpx.Client, word: str, flips: int, joint: str, blank: bool) -> None:
    said = "".join(c.upper() if flips >> n & 1 else c for n, c in enumerate(word)).replace("_", joint)
    answer = send(client, status=f" {said} " if blank else said)
    if word in ("pending", "in_progress", "completed", "failed", "cancelled"):
        assert json_of(answer, 201)["status"] == word
    else:
        assert [e["field"] for e in is_problem(answer, 422, "invalid_field")["errors"]] == ["status"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
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


@many
@given(payload=JSON)
def test_payloads(client: httpx.Client, payload: Any) -> None:
    answer, payload = send(client, payload=payload), json.loads(json.dumps(payload))
    if all(map(can_be_kept, texts_of(payload))):
        assert json_of(answer, 201)["payload"] == payload
    else:
        is_problem(answer, 422, "invalid_field")


@pytest.mark.parametrize(("depth", "status"), [(100, 201), (101, 422), (1_000, 422), (10_000, None), (100_000, None)])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_payloads_nested_deep(client: httpx.Client, depth: int, status: int | None, pair: str) -> None:
    opening = "[" if pair == "[]" else '{"a":'
    payload = opening * (depth - 1) + pair + pair[1] * (depth - 1)
    body = f'{{"title": "a", "payload": {payload}}}'
    answer = client.post(PATHS[0], content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in ({status} if status else {400, 422}), answer.text


@pytest.mark.parametrize("path", [*PATHS, "/task", "/api/python/v1/tasks", "/api/tasks", "/compat/c/tasks"])
@pytest.mark.parametrize(
    "number",
    ["1e400", "-1e400", "1e-400", "1" * 400, "9" * 5_000, "0." + "1" * 5_000, "NaN", "Infinity", "-0", "1e308"],
)
def test_numbers_beyond_range_are_kept_or_refused(client: httpx.Client, path: str, number: str) -> None:
    for field in ("payload", "max_attempts", "timeout_seconds", "title", "due_date", "priority", "tags", "unknown"):
        body = f'{{"title": "a", "{field}": {number}}}'
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (201, 400, 422), (field, answer.text)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "10000-01-01T00:00:00Z",
                                    "2030-02-29", "2030-13-01", "253402300800", "-1", "1e20", "Infinity"])  # fmt: skip
def test_times_beyond_range_are_refused(client: httpx.Client, moment: str) -> None:
    for value in (moment, float(moment) if moment.replace(".", "").lstrip("-").isdigit() else moment):
        is_problem(send(client, due_date=value), 422, "invalid_field")
