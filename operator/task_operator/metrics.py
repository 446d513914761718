"""Prometheus metrics of the operator."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

RECONCILE_TOTAL = Counter(
    "task_operator_reconcile",
    "Reconcile passes over a TaskService.",
    ["outcome"],
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "task_operator_reconcile_duration_seconds",
    "Duration of a reconcile pass over a TaskService.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
RECONCILE_ERRORS = Counter(
    "task_operator_reconcile_errors", "Reconcile passes that failed.", ["reason"], registry=REGISTRY
)
RESCUES = Counter(
    "task_operator_rescues", "Worker processes declared dead.", ["reason"], registry=REGISTRY
)
RESCUED_TASKS = Counter(
    "task_operator_rescued_tasks", "Tasks released by rescues.", ["reason"], registry=REGISTRY
)
RESCUE_ERRORS = Counter(
    "task_operator_rescue_errors",
    "Failed checks of the worker instances.",
    ["reason"],
    registry=REGISTRY,
)
RESCUE_SECONDS = Histogram(
    "task_operator_rescue_duration_seconds",
    "Time from the pod event to the service's response to the release.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)
DRIFT_REPAIRED = Counter(
    "task_operator_drift_repaired",
    "Children restored to the applied manifest.",
    ["kind"],
    registry=REGISTRY,
)
PRUNED = Counter(
    "task_operator_pruned",
    "Children deleted because they are no longer rendered.",
    ["kind"],
    registry=REGISTRY,
)
MIGRATIONS = Counter(
    "task_operator_migrations_started", "Migration Jobs created.", registry=REGISTRY
)
LEADER = Gauge("task_operator_leader", "1 while this replica holds the Lease.", registry=REGISTRY)
TASK_SERVICES = Gauge("task_operator_taskservices", "TaskServices in the cache.", registry=REGISTRY)
