"""From how a handler ended to what happens to its task: pure."""

from task_service.domain.outcomes import Outcome, RetryPolicy
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack
from task_service.worker.endings import (
    Ending,
    Failed,
    Released,
    Returned,
    Snoozed,
    Stopped,
    encode_result,
    storable,
)


def verdict(
    claim: Claim, ending: Ending, policy: RetryPolicy, random: float
) -> Finished | GivenBack:
    """Decide: finished, or back into the queue; `random` in [0, 1) spreads retries."""
    task, fence = claim.task_id, claim.fence
    if isinstance(ending, Returned):  # apart, for most do: a pattern takes longer to match
        text, problem = encode_result(ending.value)
        if problem is None:
            return Finished(task, fence, Outcome.COMPLETED, None, text)
        ending = Failed(problem)
    match ending:
        case Failed(error, outcome, seconds):
            error = storable(error)
            if claim.attempt >= claim.max_attempts:
                return Finished(task, fence, outcome, error=error)
            delay = policy.delay_seconds(claim.attempt, random) if seconds is None else seconds
            return GivenBack(task, fence, outcome, error=error, delay_seconds=delay)
        case Snoozed(seconds, why):
            return GivenBack(
                task,
                fence,
                Outcome.SNOOZED,
                why and storable(why),
                delay_seconds=seconds,
                counts=False,
            )
        case Stopped(outcome, why):
            return Finished(task, fence, outcome, error=why and storable(why))
        case Released(reason, seconds):
            return GivenBack(
                task, fence, Outcome.RELEASED, reason, delay_seconds=seconds, counts=False
            )
