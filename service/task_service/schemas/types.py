"""The rules of single fields as annotated types: `domain.fields` decides, pydantic applies and
documents.
"""

import re
from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from task_service.domain import cron, fields
from task_service.domain.errors import NotFoundError
from task_service.domain.priorities import Priority, parse_priority
from task_service.domain.statuses import Status, parse_status


def to_utc(moment: datetime) -> datetime:
    """A time in UTC; one without a zone is taken as UTC.

    >>> to_utc(datetime(2030, 1, 1, 12))
    datetime.datetime(2030, 1, 1, 12, 0, tzinfo=datetime.timezone.utc)
    """
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


def refuse_numbers(value: object) -> object:
    """Pass on what may be a time; ValueError for numbers: seconds or milliseconds, since when?

    >>> refuse_numbers("1767225600")
    Traceback (most recent call last):
    ValueError: must be a time such as 2030-01-31T12:00:00Z
    """
    if isinstance(value, int | float) or (
        isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9.]+\s*", value)
    ):
        raise ValueError("must be a time such as 2030-01-31T12:00:00Z")
    return value


def parse_day(value: object) -> date:
    """A date as people write it; ValueError for any other form, and for one that no calendar has.

    >>> parse_day("2028-02-29")
    datetime.date(2028, 2, 29)
    >>> parse_day("2026-02-30")
    Traceback (most recent call last):
    ValueError: there is no such date
    """
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not (isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)):
        raise ValueError("must be a date such as 2026-12-31")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such date") from None


def _word(parse: Any) -> Any:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _bounded(least: int, most: int) -> Any:
    """A text of so many characters, cleaned first (the schema states the bounds)."""
    return AfterValidator(partial(fields.clean_bounded, least=least, most=most))


def _not_endless(value: Any) -> Any:
    """Before an error is made for each element."""
    if isinstance(value, list) and len(value) > KEPT_TAGS_MAX:
        raise ValueError(f"a task has at most {fields.TAGS_MAX} tags")
    return value


KEPT_TITLE_MAX, KEPT_TEXT_MAX, KEPT_TAGS_MAX, KEPT_TAG_MAX = 10_000, 100_000, 1_000, 500
"""What came over from another service may be longer than what people may write here."""
Title = Annotated[
    str,
    _bounded(1, fields.TITLE_MAX),
    Field(examples=["Ring Ada"], json_schema_extra={"minLength": 1, "maxLength": 200}),
]
Description = Annotated[
    str,
    _bounded(0, fields.DESCRIPTION_MAX),
    Field(json_schema_extra={"maxLength": fields.DESCRIPTION_MAX}),
]
Person = Annotated[
    str,
    _bounded(1, fields.PERSON_MAX),
    Field(examples=["ada"], json_schema_extra={"minLength": 1, "maxLength": 200}),
]
Why = Annotated[str, _bounded(0, 500), Field(json_schema_extra={"maxLength": 500})]
Words = Annotated[
    str, _bounded(1, 200), Field(json_schema_extra={"minLength": 1, "maxLength": 200})
]
Tags = Annotated[
    list[str],
    BeforeValidator(_not_endless),
    AfterValidator(fields.clean_tags),
    Field(
        examples=[["home"]],
        description="At most 10 that differ in more than case, each of at most 50 characters.",
    ),
]
ChangedTitle = Annotated[
    str,
    _bounded(1, KEPT_TITLE_MAX),
    Field(json_schema_extra={"minLength": 1, "maxLength": fields.TITLE_MAX}),
]
ChangedDescription = Annotated[
    str, _bounded(0, KEPT_TEXT_MAX), Field(json_schema_extra={"maxLength": fields.DESCRIPTION_MAX})
]
KeptTags = Annotated[
    list[str],
    BeforeValidator(_not_endless),
    AfterValidator(partial(fields.clean_tags, most=KEPT_TAGS_MAX, longest=KEPT_TAG_MAX)),
]
"""In a change what came by import may be sent back as it is; what differs is held to the bounds by
`decide_change`.
"""
KeptText = Annotated[str, _bounded(0, KEPT_TEXT_MAX)]
KeptTitle = Annotated[str, _bounded(1, KEPT_TITLE_MAX)]
Tag = Annotated[
    str, _bounded(1, fields.TAG_MAX), Field(json_schema_extra={"maxLength": fields.TAG_MAX})
]
Name = Annotated[str, StringConstraints(pattern=fields.NAME_PATTERN), Field(examples=["default"])]
Json = Annotated[Any, AfterValidator(fields.check_payload)]
Moment = Annotated[datetime, BeforeValidator(refuse_numbers), AfterValidator(to_utc)]
SettingJson = Annotated[
    Any, AfterValidator(partial(fields.check_payload, most_bytes=fields.SETTING_MAX_BYTES))
]
Day = Annotated[date, BeforeValidator(parse_day)]
Cron = Annotated[
    str,
    AfterValidator(cron.check_cron),
    Field(
        description="Minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly.",
        examples=["30 2 * * *"],
        max_length=cron.CRON_MAX,
    ),
]
Zone = Annotated[
    str,
    AfterValidator(lambda name: cron.parse_zone(name).key),
    Field(description="IANA name.", examples=["Europe/Berlin"], max_length=100),
]
CatchUp = Literal["none", "last", "all"]
Attempts = Annotated[int, Field(strict=True, ge=1, le=fields.ATTEMPTS_MAX)]
TimeoutSeconds = Annotated[int, Field(strict=True, ge=1, le=fields.TIMEOUT_MAX_SECONDS)]
UniqueSeconds = Annotated[int, Field(strict=True, ge=1, le=fields.UNIQUE_MAX_SECONDS)]
StatusWord = Annotated[Status, _word(parse_status)]
PriorityWord = Annotated[Priority, _word(parse_priority)]
Limit = Annotated[int, Field(ge=1, le=200, description="Items on a page.")]
Cursor = Annotated[str, Field(max_length=400, description="`next_cursor` of the page before.")]

BIGINT_MAX = 2**63 - 1


def parse_id(what: str, text: str) -> UUID:
    """The UUID in a path; NotFoundError for what cannot be one, since nothing has such an id."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError(what, text[:100]) from None


def parse_number(text: str) -> int | None:
    """Service C's integer id; None for what is not one that the database can have.

    >>> parse_number("12"), parse_number("x"), parse_number("9" * 30)
    (12, None, None)
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    number = int(text)
    return number if number <= BIGINT_MAX else None


def fragment(text: str | None) -> Any:
    """JSON text from the database, to be written into an answer as it is."""
    return None if text is None else orjson.Fragment(text)
