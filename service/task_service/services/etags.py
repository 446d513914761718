"""ETags of tasks, `If-Match` and `If-None-Match`.

An ETag is `"GUARD-SHOWN"`. The guard (version, fence, cancel flag, outcome) changes with every
change by a person or a worker, and is what `If-Match` compares. The rest is what else a
representation shows: a status that only time changes (scheduled becomes pending), the number of
conversations and the progress, which must not make an editor's copy stale.
"""

from dataclasses import dataclass

from task_service.domain.errors import StaleVersionError
from task_service.store.tasks import TaskRow


def etag_of(task: TaskRow) -> str:
    """The task's ETag, with its quotes."""
    cancel = int(task.cancel_requested_at is not None)
    guard = f"{task.version}.{task.fence}.{cancel}.{task.outcome or 'none'}"
    told = f".{task.progress_at.timestamp():.6f}" if task.progress_at else ""
    return f'"{guard}-{task.status}.{task.conversation_count}{told}"'


def _tags(header: str) -> list[str]:
    # A proxy that compresses makes an ETag weak; what we compare is the same.
    return [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]


@dataclass(frozen=True, slots=True)
class Guard:
    """The `If-Match` of a request; None lets everything pass, `*` everything that exists."""

    header: str | None = None

    def check(self, task: TaskRow) -> None:
        """Raise StaleVersionError when the task is not one of those that the caller has read."""
        self.compare(etag_of(task), "task")

    def compare(self, current: str, what: str) -> None:
        """The same of any ETag of which the part before the first hyphen is what counts."""
        if self.header is None or self.header.strip() == "*":
            return
        guard = current.strip('"').split("-")[0]
        if guard not in {tag.split("-")[0] for tag in _tags(self.header)}:
            raise StaleVersionError(current, what)


UNCONDITIONAL = Guard()
"""The guard of a request without `If-Match`."""


def is_unchanged(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this ETag.

    >>> is_unchanged('W/"1.0.0.none-pending.0", "x"', '"1.0.0.none-pending.0"'), is_unchanged(None, '"1"')
    (True, False)
    """
    return header is not None and (header.strip() == "*" or etag.strip('"') in _tags(header))
