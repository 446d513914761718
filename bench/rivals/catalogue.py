"""The products that are compared, and what the bench must know of each beside its adaptor."""

from dataclasses import dataclass

QUEUE = "default"


@dataclass(frozen=True)
class Product:
    """`adaptor` is its module in `adaptors`, `requirements` its lock (None: our own environment).

    `open` counts what is not finished yet: SQL, or a Lua script for Redis. `pace` and `bulk_pace`
    are tasks per second that it drains with one worker and enters in bulk, roughly: they choose how
    many tasks make some seconds.
    """

    name: str
    adaptor: str
    requirements: str | None
    open: str
    pace: int
    bulk_pace: int
    store: str = "postgresql"
    minimum_python: tuple[int, int] = (3, 11)

    @property
    def durable(self) -> bool:
        """Whether a task that was accepted outlives a crash of its server."""
        return self.store == "postgresql"

    def tasks(self, most: int, seconds: float = 4.0) -> int:
        """Tasks for a drain of so many seconds by one worker, and at most `most`."""
        return min(most, int(self.pace * seconds))

    def bulk_tasks(self, most: int, seconds: float = 2.0) -> int:
        """Tasks for entering in bulk for so many seconds, and at most `most`."""
        return min(most, int(self.bulk_pace * seconds))


OURS = Product("task-service", "ours", None, "SELECT count(*) FROM queue", 50_000, 50_000)
CEILING = Product("by hand", "by_hand", None, "SELECT count(*) FROM queue", 50_000, 50_000)
PEERS = (
    Product("pgqueuer", "pgqueuer", "pgqueuer", "SELECT count(*) FROM pgqueuer", 25_000, 80_000),
    Product(
        "awa", "awa", "awa",
        "SELECT (SELECT count(*) FROM awa.ready_entries) - (SELECT count(*) FROM awa.done_entries)"
        " - (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches)",
        9_000, 90_000,
    ),
    Product(
        "oban", "oban", "oban",
        "SELECT count(*) FROM oban_jobs WHERE state IN ('available', 'scheduled', 'executing', 'retryable')",
        8_000, 9_000, minimum_python=(3, 12),
    ),
    Product(
        "procrastinate", "procrastinate", "procrastinate",
        "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')", 1_300, 20_000,
    ),
    Product(
        "dramatiq", "dramatiq", "dramatiq", f"return redis.call('hlen', 'dramatiq:{QUEUE}.msgs')",
        5_500, 10_000, "redis",
    ),
    Product(
        "celery", "celery", "celery", f"return redis.call('llen', '{QUEUE}') + redis.call('hlen', 'unacked')",
        1_900, 3_300, "redis",
    ),
    Product(
        "rq", "rq", "rq", f"return redis.call('llen', 'rq:queue:{QUEUE}') + redis.call('zcard', 'rq:wip:{QUEUE}')",
        500, 12_000, "redis",
    ),
)  # fmt: skip
PRODUCTS = (OURS, CEILING, *PEERS)
