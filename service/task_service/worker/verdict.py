"""From how a handler ended to what happens to its task: pure."""

from dataclasses import dataclass
from typing import Any

import orjson

from task_service.domain.outcomes import Outcome, Reason, RetryPolicy
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack

RESULT_MAX_BYTES = 256 * 1024
ERROR_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned this."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, ran out of time, or asked for a retry (after so many seconds, None: by the policy)."""

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


def verdict(claim: Claim, ending: Ending, policy: RetryPolicy, random: float) -> Finished | GivenBack:
    """Decide: finished, or back into the queue; `random` in [0, 1) spreads retries."""
    task, fence = claim.task_id, claim.fence
    match ending:
        case Returned(value):
            text, problem = encode_result(value)
            if problem:
                return verdict(claim, Failed(problem), policy, random)
            return Finished(task, fence, Outcome.COMPLETED, result=text)
        case Failed(error, outcome, seconds):
            error = storable(error)
            if claim.attempt >= claim.max_attempts:
                return Finished(task, fence, outcome, error=error)
            delay = policy.delay_seconds(claim.attempt, random) if seconds is None else seconds
            return GivenBack(task, fence, outcome, error=error, delay_seconds=delay)
        case Snoozed(seconds, why):
            return GivenBack(task, fence, Outcome.SNOOZED, why and storable(why), delay_seconds=seconds, counts=False)
        case Stopped(outcome, why):
            return Finished(task, fence, outcome, error=why and storable(why))
        case Released(reason, seconds):
            return GivenBack(task, fence, Outcome.RELEASED, reason, delay_seconds=seconds, counts=False)


def encode_result(value: Any) -> tuple[str | None, str | None]:
    """A handler's value as JSON text, or what is wrong with it.

    >>> encode_result({"a": 1})
    ('{"a":1}', None)
    >>> encode_result(object())[1]
    'the handler returned what is not JSON: Type is not JSON serializable: object'
    """
    if value is None:
        return None, None
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        return None, f"the handler returned what is not JSON: {error}"
    if len(text) > RESULT_MAX_BYTES:
        return None, f"the handler returned {len(text)} bytes of JSON; at most {RESULT_MAX_BYTES} are kept"
    return text.decode(), None


def storable(text: str) -> str:
    """Error text that PostgreSQL can keep: no NUL, valid Unicode, bounded."""
    return text[:ERROR_MAX].replace("\x00", "\\0").encode(errors="backslashreplace").decode()
