"""The rules of single fields as annotated types: `domain.fields` decides, pydantic applies and documents."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from task_service.domain import fields
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


def _word(parse: Any) -> Any:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _bounded(least: int, most: int) -> Any:
    """Clean the text first, then count its characters (the schema states the bounds)."""

    def check(text: str) -> str:
        text = fields.clean_text(text)
        if not least <= len(text) <= most:
            raise ValueError(f"must have {least} to {most} characters, blanks at the ends not counted")
        return text

    return AfterValidator(check)


Title = Annotated[
    str,
    _bounded(1, fields.TITLE_MAX),
    Field(examples=["Ring Ada"], json_schema_extra={"minLength": 1, "maxLength": 200}),
]
Description = Annotated[
    str, _bounded(0, fields.DESCRIPTION_MAX), Field(json_schema_extra={"maxLength": fields.DESCRIPTION_MAX})
]
Person = Annotated[
    str, _bounded(1, fields.PERSON_MAX), Field(examples=["ada"], json_schema_extra={"minLength": 1, "maxLength": 200})
]
Why = Annotated[str, _bounded(0, 500), Field(json_schema_extra={"maxLength": 500})]
Words = Annotated[str, _bounded(1, 200), Field(json_schema_extra={"minLength": 1, "maxLength": 200})]
Tags = Annotated[
    list[str],
    AfterValidator(fields.clean_tags),
    Field(examples=[["home"]], json_schema_extra={"maxItems": fields.TAGS_MAX}),
]
Tag = Annotated[str, _bounded(1, fields.TAG_MAX), Field(json_schema_extra={"maxLength": fields.TAG_MAX})]
Name = Annotated[str, StringConstraints(pattern=fields.NAME_PATTERN), Field(examples=["default"])]
Json = Annotated[Any, AfterValidator(fields.check_payload)]
Moment = Annotated[datetime, AfterValidator(to_utc)]
Attempts = Annotated[int, Field(strict=True, ge=1, le=fields.ATTEMPTS_MAX)]
TimeoutSeconds = Annotated[int, Field(strict=True, ge=1, le=fields.TIMEOUT_MAX_SECONDS)]
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
