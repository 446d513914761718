"""Cursors: encoded values are decoded unchanged, and other text is rejected."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_service.domain.errors import InvalidFieldError
from task_service.store.cursors import decode_cursor, encode_cursor

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(timezones=st.just(UTC))


@given(text, st.integers(-(2**63) + 1, 2**63 - 1), moments, st.uuids())
def test_cursor_decodes_to_its_parts(word: str, number: int, moment: datetime, key: UUID) -> None:
    cursor = encode_cursor(word, number, moment, key, None)
    assert cursor.isascii()
    assert decode_cursor(cursor, str, int, datetime, UUID, None) == (
        word,
        number,
        moment,
        key,
        None,
    )


@given(st.text(max_size=450))
def test_any_text_is_decoded_or_rejected_by_name(cursor: str) -> None:
    refused = {}
    try:
        read = decode_cursor(cursor, int)
    except InvalidFieldError as error:
        refused = error.extra["errors"][0]
    assert refused["field"] == "cursor" if refused else encode_cursor(*read)


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ((1,), (str,)),
        (("1",), (int,)),
        ((True,), (int,)),
        ((1.0,), (int,)),
        ((2**63,), (int,)),
        (("a\x00",), (str,)),
        (("x",), (UUID,)),
        (("x",), (datetime,)),
        ((None,), (int,)),
        ((1,), (None,)),
        ((1, 2), (int,)),
        ((), (int,)),
    ],
)
def test_parts_of_another_type_are_rejected(
    parts: tuple[Any, ...], kinds: tuple[type | None, ...]
) -> None:
    with pytest.raises(InvalidFieldError):
        decode_cursor(encode_cursor(*parts), *kinds)
