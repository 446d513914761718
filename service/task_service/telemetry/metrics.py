"""The metrics of queue and worker; base units, few labels. What the database knows is read at scrape time."""

from prometheus_client import Counter, Gauge, Histogram

RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

CLAIMED = Counter("task_service_tasks_claimed", "Tasks claimed by this worker.", ["queue"])
FINISHED = Counter("task_service_attempts_finished", "Attempts that ended here.", ["queue", "handler", "outcome"])
CLAIMS_LOST = Counter(
    "task_service_claims_lost", "Attempts whose claim was lost to another worker; their results were discarded."
)
RELEASED = Counter(
    "task_service_tasks_released",
    "Tasks taken by this process from dead workers, or from its own claims that it never heard of.",
    ["reason"],
)
WORKERS_DEAD = Counter("task_service_workers_declared_dead", "Workers that this process declared dead.", ["reason"])
HEARTBEATS_FAILED = Counter("task_service_heartbeats_failed", "Heartbeats that the database did not acknowledge.")
WAIT_SECONDS = Histogram("task_service_task_wait_seconds", "From run_at to the claim.", ["queue"], buckets=RUN_BUCKETS)
RUN_SECONDS = Histogram(
    "task_service_task_run_seconds", "From start to end of an attempt.", ["queue", "handler"], buckets=RUN_BUCKETS
)
RUNNING = Gauge("task_service_tasks_running", "Attempts running in this process.")
SPANS_LOST = Counter("task_service_spans_lost", "Spans of traces that no collector took.")
CACHE_READS = Counter("task_service_cache_reads", "Reads that asked the cache: hit, miss, or passed by.", ["outcome"])
CACHE_ERRORS = Counter("task_service_cache_errors", "Calls of Redis that failed, by what they were for.", ["call"])
EVENT_STREAMS = Gauge("task_service_event_streams", "Streams of events that are open in this process.")
EVENT_LAG_SECONDS = Gauge(
    "task_service_event_lag_seconds",
    "How long the oldest event that may not be told yet has waited for older transactions; 0 while nobody listens.",
)
TASKS_CREATED = Counter("task_service_tasks_created", "Tasks created.", ["queue", "handler"])

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


def count_created(queue: str, handler: str | None, number: int = 1) -> None:
    """Count created tasks."""
    TASKS_CREATED.labels(QUEUES.label(queue), HANDLERS.label(handler or "")).inc(number)
