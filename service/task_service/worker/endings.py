"""How a run ended, as a value: made of what its handler returned or raised.

This module imports little, for the process of an isolated handler begins with it.
"""

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from task_service.domain.outcomes import Outcome, Reason
from task_service.worker.handlers import Cancel, Discard, LostClaimError, Retry, Snooze

RESULT_MAX_BYTES = 256 * 1024
ERROR_MAX, ERROR_HEAD = 4_000, 1_000
NO_TRANSACTION = (
    "an isolated handler has no transaction: the connection is the worker's, in another process. Return what is to be "
    "kept, or write it in a handler that is not isolated"
)
CANCELLED_ITSELF = "the handler cancelled itself (asyncio.CancelledError)"


@dataclass(slots=True)  # most runs end so, and a frozen one takes longer to make
class Returned:
    """The handler returned this."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, ran out of time, or asked for a retry (after so many seconds, None: by
    the policy).
    """

    error: str
    outcome: Outcome = Outcome.FAILED
    retry_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The handler wants to run later, uncounted."""

    seconds: float
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The task ends without success and without another attempt: cancelled or discarded."""

    outcome: Outcome
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """This worker gives the task back alive."""

    reason: Reason
    delay_seconds: float = 0.0


Ending = Returned | Failed | Snoozed | Stopped | Released


def call(function: Callable[..., Any], *arguments: Any) -> Ending | None:
    """Call a plain handler and say how it ended; nothing that it raises gets any further. None: its
    claim was lost.
    """
    try:
        return Returned(function(*arguments))
    except BaseException as error:  # noqa: BLE001 - also SystemExit: a handler must not end the worker
        return ending_of(error)


def ending_of(error: BaseException) -> Ending | None:
    """What raising this means; None when the claim was lost.

    >>> ending_of(Snooze(30))
    Snoozed(seconds=30.0, why='snoozed for 30 s')
    >>> ending_of(Discard("no such address"))
    Stopped(outcome=<Outcome.DISCARDED: 'discarded'>, why='no such address')
    """
    try:
        match error:
            case Retry():
                return Failed(str(error), retry_seconds=error.seconds)
            case Snooze():
                return Snoozed(error.seconds, str(error))
            case Cancel():
                return Stopped(Outcome.CANCELLED, str(error) or None)
            case Discard():
                return Stopped(Outcome.DISCARDED, str(error) or None)
            case LostClaimError():
                return None
        return Failed("".join(traceback.format_exception(error)))
    except BaseException:  # noqa: BLE001 - its own methods raise
        return Failed(f"{type(error).__name__} (its text cannot be read)")


def encode_result(value: Any) -> tuple[str | None, str | None]:
    """A handler's value as JSON text, or what is wrong with it.

    >>> encode_result({"a": 1})
    ('{"a":1}', None)
    >>> encode_result(object())[1]
    'the handler returned what is not JSON: Type is not JSON serializable: object'
    >>> encode_result({"share": float("nan")})[1]
    'the handler returned what is not JSON: nan'
    """
    if value is None:
        return None, None
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        return None, f"the handler returned what is not JSON: {error}"
    if len(text) > RESULT_MAX_BYTES:
        return (
            None,
            f"the handler returned {len(text)} bytes of JSON; at most {RESULT_MAX_BYTES} are kept",
        )
    if b"null" in text and (odd := _no_number(value)) is not None:
        return None, f"the handler returned what is not JSON: {odd}"
    return text.decode(), None


def _no_number(value: Any) -> float | None:
    """A NaN or infinity anywhere in this: orjson writes them as null."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    parts = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    return next((odd for part in parts if (odd := _no_number(part)) is not None), None)


def storable(text: str) -> str:
    r"""Error text that PostgreSQL can keep: no NUL, valid Unicode, bounded. What is said last
    counts most.

    >>> storable("a\x00b")
    'a\\0b'
    >>> len(storable("x" * 10_000)) < 4_100
    True
    """
    if len(text) > ERROR_MAX:
        left_out = len(text) - ERROR_MAX
        text = f"{text[:ERROR_HEAD]}\n[{left_out} characters left out]\n{text[ERROR_HEAD - ERROR_MAX :]}"
    return text.replace("\x00", "\\0").encode(errors="backslashreplace").decode()
