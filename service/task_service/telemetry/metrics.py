"""The metrics of queue and worker; base units, few labels. What the database knows is read at scrape time."""

from prometheus_client import Counter, Gauge, Histogram

RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

CLAIMED = Counter("task_service_tasks_claimed", "Tasks claimed by this worker.", ["queue"])
FINISHED = Counter("task_service_attempts_finished", "Attempts that ended here.", ["queue", "handler", "outcome"])
CLAIMS_LOST = Counter(
    "task_service_claims_lost", "Attempts whose claim was lost to another worker; their results were discarded."
)
RELEASED = Counter("task_service_tasks_released", "Tasks taken from dead workers by this process.", ["reason"])
WORKERS_DEAD = Counter("task_service_workers_declared_dead", "Workers that this process declared dead.", ["reason"])
HEARTBEATS_FAILED = Counter("task_service_heartbeats_failed", "Heartbeats that the database did not acknowledge.")
WAIT_SECONDS = Histogram("task_service_task_wait_seconds", "From run_at to the claim.", ["queue"], buckets=RUN_BUCKETS)
RUN_SECONDS = Histogram(
    "task_service_task_run_seconds", "From start to end of an attempt.", ["queue", "handler"], buckets=RUN_BUCKETS
)
RUNNING = Gauge("task_service_tasks_running", "Attempts running in this process.")
