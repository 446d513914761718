"""Metrics of the HTTP service, on the process's default registry."""

from prometheus_client import Counter, Histogram

REQUEST_SECONDS = Histogram(
    "task_service_http_request_seconds",
    "Time to answer a request, by route template.",
    ["route", "method", "status"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
REQUEST_FAULTS = Counter(
    "task_service_http_faults_total", "Requests that failed by a fault of the service.", ["route"]
)
RATE_LIMITED = Counter(
    "task_service_rate_limited_total", "Requests that were over their limit.", ["limit"]
)
