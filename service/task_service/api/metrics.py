"""Metrics of the HTTP service, on the process's default registry."""

from prometheus_client import Counter, Histogram

REQUEST_SECONDS = Histogram(
    "task_service_http_request_seconds",
    "Time to answer a request, by route template.",
    ["route", "method", "status"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
TASKS_CREATED = Counter("task_service_tasks_created", "Tasks created over HTTP.", ["queue", "handler"])
REQUEST_FAULTS = Counter("task_service_http_faults_total", "Requests that failed by a fault of the service.", ["route"])

OTHER = "other"


class BoundedNames:
    """The first names that come get a series each; later ones share one, because callers choose them.

    >>> names = BoundedNames(most=2)
    >>> [names.label(n) for n in ("a", "b", "c", "a")]
    ['a', 'b', 'other', 'a']
    """

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """The label's value for a name."""
        if name not in self._known and len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


QUEUES, HANDLERS = BoundedNames(), BoundedNames()


def count_created(queue: str, handler: str | None) -> None:
    """Count a created task."""
    TASKS_CREATED.labels(QUEUES.label(queue), HANDLERS.label(handler or "")).inc()
