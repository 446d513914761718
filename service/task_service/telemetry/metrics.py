"""Metrics of the queue and the worker, in base units.

Gauges of the database's content are read at scrape time (`api.gauges`).
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Series:
    """One series of a `QuickHistogram`."""

    __slots__ = ("_bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds


class QuickHistogram(Collector):
    """A histogram without locks, for one thread with tens of thousands of observations a second.

    >>> waits = QuickHistogram("wait_seconds", "Wait time.", ["queue"], (1, 5))
    >>> for seconds in (0.5, 1, 7):
    ...     waits.labels("mail").observe(seconds)
    >>> [(s.labels["le"], s.value) for s in list(waits.collect())[0].samples[:3]]
    [('1.0', 2), ('5.0', 2), ('+Inf', 3)]
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._name, self._documentation, self._labels, self._buckets = (
            name,
            documentation,
            labels,
            buckets,
        )
        self._series: defaultdict[tuple[str, ...], Series] = defaultdict(lambda: Series(buckets))

    def labels(self, *values: str) -> Series:
        """Return the series with these labels."""
        return self._series[values]

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Yield the name only, for the registry."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield all series for a scrape."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        names = [*(str(float(bound)) for bound in self._buckets), "+Inf"]
        for values, series in list(self._series.items()):
            buckets = list(zip(names, accumulate(series.counts), strict=True))
            family.add_metric(values, buckets, series.seconds)
        yield family


CLAIMED = Counter("task_service_tasks_claimed", "Tasks claimed by this worker.", ["queue"])
FINISHED = Counter(
    "task_service_attempts_finished", "Attempts that ended here.", ["queue", "handler", "outcome"]
)
CLAIMS_LOST = Counter(
    "task_service_claims_lost",
    "Attempts whose claim was lost to another worker; their results were discarded.",
)
RELEASED = Counter(
    "task_service_tasks_released",
    "Tasks released by this process: of dead workers, and own claims whose response was lost.",
    ["reason"],
)
WORKERS_DEAD = Counter(
    "task_service_workers_declared_dead", "Workers that this process declared dead.", ["reason"]
)
HEARTBEATS_FAILED = Counter(
    "task_service_heartbeats_failed", "Heartbeats that the database did not acknowledge."
)
WAIT_SECONDS = QuickHistogram(
    "task_service_task_wait_seconds", "Time from run_at to the claim.", ["queue"], RUN_BUCKETS
)
RUN_SECONDS = QuickHistogram(
    "task_service_task_run_seconds",
    "Duration of an attempt.",
    ["queue", "handler"],
    RUN_BUCKETS,
)
REGISTRY.register(WAIT_SECONDS)
REGISTRY.register(RUN_SECONDS)
RUNNING = Gauge("task_service_tasks_running", "Attempts running in this process.")
SPANS_LOST = Counter("task_service_spans_lost", "Spans that could not be exported.")
CACHE_READS = Counter(
    "task_service_cache_reads", "Cached reads by outcome: hit, miss or bypass.", ["outcome"]
)
CACHE_ERRORS = Counter("task_service_cache_errors", "Failed Redis calls, by purpose.", ["call"])
EVENT_STREAMS = Gauge("task_service_event_streams", "Event streams that are open in this process.")
EVENT_LAG_SECONDS = Gauge(
    "task_service_event_lag_seconds",
    "Age of the oldest event that waits for older transactions; 0 without open streams.",
)
TASKS_CREATED = Counter("task_service_tasks_created", "Tasks created.", ["queue", "handler"])

OTHER = "other"


class BoundedNames:
    """Bounded label values: the first names keep their own, later ones share `other`.

    >>> names = BoundedNames(most=2)
    >>> [names.label(n) for n in ("a", "b", "c", "a")]
    ['a', 'b', 'other', 'a']
    """

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """Return the label value for a name."""
        if name not in self._known and len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


QUEUES, HANDLERS = BoundedNames(), BoundedNames()


def count_created(queue: str, handler: str | None, number: int = 1) -> None:
    """Count created tasks."""
    TASKS_CREATED.labels(QUEUES.label(queue), HANDLERS.label(handler or "")).inc(number)
