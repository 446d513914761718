"""Properties of the field rules: any input is valid, or rejected by field name."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from task_service.domain import fields
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.schemas.responses import TaskQuery
from task_service.schemas.tasks import NewTask, TaskChange

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def invalid_fields(model: type[Any], **values: Any) -> set[str]:
    """Return the fields that a model rejects."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return {str(e["loc"][0]) for e in error.errors()}
    return set()


def is_text(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


@given(st.text(max_size=230) | st.text(alphabet=" \n\tä\u3000", max_size=300))
def test_title_must_have_1_to_200_characters_after_stripping(
    title: str,
) -> None:
    good = is_text(title) and 1 <= len(title.strip()) <= 200
    assert invalid_fields(NewTask, title=title) == (set() if good else {"title"})
    if good:
        assert NewTask(title=title).title == title.strip()


@given(st.text(max_size=40).map(lambda t: t * 100))
def test_description_has_at_most_2000_characters(text: str) -> None:
    good = is_text(text) and len(text.strip()) <= 2000
    assert invalid_fields(NewTask, title="a", description=text) == (
        set() if good else {"description"}
    )


@given(st.lists(st.text(max_size=60) | st.sampled_from(["Home", "home", " HOME "]), max_size=14))
def test_tags_are_limited_and_unique_regardless_of_case(tags: list[str]) -> None:
    if invalid_fields(NewTask, title="a", tags=tags):
        unique = {t.strip().casefold() for t in tags if is_text(t) and t.strip()}
        assert len(unique) > 10 or any(len(t.strip()) > 50 or not is_text(t) for t in tags)
    else:
        kept = NewTask(title="a", tags=tags).tags
        assert len({t.casefold() for t in kept}) == len(kept) <= 10
        assert all(t == t.strip() and 1 <= len(t) <= 50 for t in kept)
        assert {t.casefold() for t in kept} == {t.strip().casefold() for t in tags if t.strip()}


@given(st.sampled_from(list(Status)), st.sampled_from(list(Priority)), st.data())
def test_status_and_priority_are_case_insensitive(
    status: Status, priority: Priority, data: st.DataObject
) -> None:
    def shuffled(word: str) -> str:
        upper = data.draw(st.lists(st.booleans(), min_size=len(word), max_size=len(word)))
        return "".join(c.upper() if u else c for c, u in zip(word, upper, strict=True))

    change = TaskChange.model_validate({"status": shuffled(status), "priority": shuffled(priority)})
    assert (change.status, change.priority) == (status, priority)


@given(anything)
def test_payload_must_be_storable_and_serializable(
    payload: Any,
) -> None:
    def holds(value: Any) -> bool:
        if isinstance(value, str):
            return is_text(value)
        if isinstance(value, float):
            return math.isfinite(value)
        if isinstance(value, dict):
            return all(holds(k) and holds(v) for k, v in value.items())
        return all(map(holds, value)) if isinstance(value, list) else True

    assert invalid_fields(NewTask, title="a", payload=payload) == (
        set() if holds(payload) else {"payload"}
    )


@given(st.integers(1, 300))
def test_payload_is_nested_at_most_100_levels_deep(depth: int) -> None:
    payload = json.loads("[" * depth + "]" * depth)
    assert invalid_fields(NewTask, title="a", payload=payload) == (
        set() if depth <= 100 else {"payload"}
    )


@pytest.mark.parametrize("filler", ["a", "ä", "\U0001f600", '"'])
def test_payload_size_is_measured_in_bytes(filler: str) -> None:
    each = len(json.dumps(filler, ensure_ascii=False).encode()) - 2
    most = (fields.PAYLOAD_MAX_BYTES - 2) // each
    assert not invalid_fields(NewTask, title="a", payload=filler * most)
    assert invalid_fields(NewTask, title="a", payload=filler * (most + 1)) == {"payload"}


@given(
    st.sampled_from([n for n in NewTask.model_fields if n not in ("payload", "conversations")]),
    anything,
)
def test_any_value_of_any_field_is_at_worst_rejected_by_name(field: str, value: Any) -> None:
    assert invalid_fields(NewTask, **({"title": "a"} | {field: value})) <= {field}
    assert invalid_fields(TaskChange, **{field: value}) <= {field}


@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_times_are_stored_in_utc(moment: datetime) -> None:
    if not invalid_fields(NewTask, title="a", run_at=moment.isoformat()):
        kept = NewTask.model_validate({"title": "a", "run_at": moment.isoformat()}).run_at
        assert kept is not None
        assert kept.tzinfo is UTC


@given(st.integers() | st.floats() | st.booleans() | st.text(max_size=3))
def test_numbers_must_be_integers_in_their_range(number: Any) -> None:
    whole = isinstance(number, int) and not isinstance(number, bool)
    good = whole and 1 <= number <= fields.ATTEMPTS_MAX
    assert invalid_fields(NewTask, title="a", max_attempts=number) == (
        set() if good else {"max_attempts"}
    )


def test_change_distinguishes_missing_fields_from_null() -> None:
    assert TaskChange.model_validate({}).columns() == {}
    change = TaskChange.model_validate(
        {"tags": None, "handler": None, "priority": "urgent", "status": "failed"}
    )
    assert change.columns() == {"tags": [], "handler": None, "priority": 0}


def test_null_is_rejected_for_required_fields() -> None:
    names = {"title", "status", "priority", "queue", "max_attempts"}
    assert invalid_fields(TaskChange, **dict.fromkeys(TaskChange.model_fields)) == names


def test_filters_keep_their_order_and_drop_duplicates() -> None:
    query = TaskQuery.model_validate(
        {"status": ["Failed", "pending", "FAILED"], "tag": ["a"], "text": " b "}
    )
    where = query.conditions()
    assert (where.statuses, where.tags, where.text) == (
        (Status.FAILED, Status.PENDING),
        ("a",),
        "b",
    )
