"""The span of a run: a child of the request that enqueued the task, whatever worker runs it and
however often.
"""

import contextvars
from uuid import UUID

from opentelemetry.context import Context, attach
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context

from task_service.domain.outcomes import Outcome
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack
from task_service.telemetry.helpers import attributes_of, context_of
from task_service.worker.endings import Ending, Failed, Released, Stopped

FAILURES = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DISCARDED})


class RunSpan:
    """The span `run HANDLER` of one attempt, from its start until it is reported."""

    __slots__ = ("_ended", "_span")

    def __init__(self, tracer: Tracer, claim: Claim, worker_id: UUID) -> None:
        attributes = {
            "task.id": claim.task_id,
            "task.handler": claim.handler,
            "task.queue": claim.queue,
            "task.attempt": claim.attempt,
            "worker.id": worker_id,
        }
        self._span = tracer.start_span(
            f"run {claim.handler}",
            context=context_of(claim.trace_context),
            kind=SpanKind.CONSUMER,
            attributes=attributes_of(attributes),
        )
        self._ended = False

    def enter(self, variables: contextvars.Context) -> None:
        """Make this span the current one for what runs with these context variables."""
        variables.run(attach, set_span_in_context(self._span, Context()))

    def interrupted(self, why: Ending) -> None:
        """Note that the handler is told to stop."""
        match why:
            case Stopped(outcome, _) | Failed(_, outcome, _):
                self._span.add_event(outcome.value)
            case Released(reason, _):
                self._span.add_event("released", {"reason": reason.value})

    def end(self, end: Finished | GivenBack | None, *, lost: bool = False) -> None:
        """Close it with what the run came to; None with a handler that completed its task in its
        own transaction.
        """
        if self._ended:
            return
        self._ended = True
        outcome = Outcome.LOST if lost else Outcome.COMPLETED if end is None else end.outcome
        self._span.set_attribute("task.outcome", outcome.value)
        if lost:
            self._fail("the claim was lost to another worker")
        elif end is not None:
            self._tell(end)
        self._span.end()

    def _tell(self, end: Finished | GivenBack) -> None:
        if end.outcome in FAILURES:
            error = (end.error or end.outcome.value).rstrip()
            self._fail(error.rsplit("\n", 1)[-1])
            if "\n" in error:
                self._span.add_event("exception", {"exception.stacktrace": error})
        if isinstance(end, GivenBack):
            what = "retried" if end.outcome in FAILURES else end.outcome.value
            self._span.add_event(
                what, attributes_of({"delay_seconds": end.delay_seconds, "reason": end.reason})
            )

    def _fail(self, why: str) -> None:
        self._span.set_status(StatusCode.ERROR, why)
