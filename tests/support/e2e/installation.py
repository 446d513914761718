"""One installed task service, as seen through kubectl, HTTP and its database."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import httpx
import psycopg2
import pytest

from tests.support.e2e.environment import Environment, secret, task_service
from tests.support.kube import Kube, Object, poll

ATTEMPTS = """
    SELECT
        r.task_id::text, r.fence, r.attempt, r.outcome, r.reason, r.final,
        r.claimed_at, r.finished_at, w.id::text, w.pod_name
    FROM runs AS r LEFT JOIN workers AS w ON w.id = r.worker_id
    WHERE r.task_id = ANY(%s::uuid[]) ORDER BY r.task_id, r.fence
"""
HELD = """
    SELECT q.task_id::text, w.pod_name FROM queue AS q JOIN workers AS w ON w.id = q.worker_id
    WHERE q.task_id = ANY(%s::uuid[]) AND q.state = 'running' AND q.started
"""
LEASE_END = """
    SELECT heartbeat_at + make_interval(secs => lease_seconds) FROM workers WHERE id = %s::uuid
"""
EFFECTS = """
    SELECT task_id::text, phase FROM side_effects
    WHERE task_id = ANY(%s::uuid[]) ORDER BY number
"""
OPEN = "SELECT count(*) FROM queue WHERE task_id = ANY(%s::uuid[])"
WORKERS = "app.kubernetes.io/component=worker"
METRIC_PORT = 8081


@dataclass(frozen=True)
class Attempt:
    """Finished attempt of a task."""

    task_id: str
    fence: int
    attempt: int
    outcome: str
    reason: str | None
    final: bool
    claimed_at: datetime
    finished_at: datetime
    worker_id: str
    pod: str


class Installation:
    """Task service in a namespace and a database of its own."""

    def __init__(self, environment: Environment, kube: Kube, name: str, database_url: str) -> None:
        self.environment, self.kube = environment, kube
        self.name, self.database_url = name, database_url

    @classmethod
    def prepare(
        cls,
        environment: Environment,
        namespace: str,
        name: str = "demo",
        *,
        with_secret: bool = True,
    ) -> "Installation":
        """Create the namespace, the database and the Secret with its URL."""
        kube = environment.namespace(namespace)
        url = environment.create_database(namespace)
        if with_secret:
            kube.apply(secret(url))
        return cls(environment, kube, name, url)

    # -- the TaskService --

    @property
    def target(self) -> str:
        return f"taskservice/{self.name}"

    def apply(self, **spec: Any) -> None:
        self.kube.apply(task_service(self.name, **spec))

    def until_ready(self, seconds: float = 120) -> None:
        """Wait until the current spec is Ready."""
        self.kube.wait(self.target, "condition=Ready", seconds)

    def set_image(self, tag: str) -> None:
        self.kube.patch("taskservice", self.name, {"spec": {"image": {"tag": tag}}})

    def live(self) -> Object:
        return self.kube.get("taskservice", self.name)

    def worker_pods(self) -> list[Object]:
        """Return the worker pods that are Ready and not being deleted."""
        return [pod for pod in self.kube.list("pods", WORKERS) if is_ready(pod)]

    def until_workers(self, count: int = 2, seconds: float = 90) -> list[str]:
        """Wait until exactly `count` workers are Ready and registered; return their pods' names."""

        def settled() -> list[str]:
            names = sorted(pod["metadata"]["name"] for pod in self.worker_pods())
            return names if len(names) == count and names == self.registered() else []

        return poll(f"{count} workers", settled, seconds)

    def until_old_pods_are_gone(self, seconds: float = 90) -> None:
        """Wait until no pod is being deleted."""

        def none_is_deleted() -> bool:
            return not any(
                pod["metadata"].get("deletionTimestamp") for pod in self.kube.list("pods")
            )

        poll("the end of the old pods", none_is_deleted, seconds)

    def until_idle(self, seconds: float = 90) -> None:
        """Wait until the status shows an empty queue; its figures may be half a minute old."""
        poll(
            "an empty queue in the status",
            lambda: not any(self.live()["status"]["queue"].values()),
            seconds,
        )

    def until_status(self, part: str, expected: Object, seconds: float = 30) -> None:
        """Wait until a part of the status has these values."""

        def is_current() -> bool:
            values = self.live()["status"].get(part) or {}
            return bool({name: values.get(name) for name in expected} == expected)

        poll(f"status.{part} = {expected}", is_current, seconds)

    def registered(self) -> list[str]:
        """Return the pods of the active workers."""
        rows = self.query("SELECT pod_name FROM workers WHERE state = 'active' ORDER BY pod_name")
        return [pod for (pod,) in rows]

    # -- HTTP --

    @cached_property
    def url(self) -> str:
        """URL of the API's Service."""
        return self.kube.service_url(f"{self.name}-api")

    def require_direct_url(self) -> None:
        """Skip the test if the Service is reachable only through a port-forward to one pod."""
        if self.kube.is_forwarded(self.url):
            pytest.skip("needs a Service that is reachable from this machine")

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def create(
        self, count: int, handler: str, payload: object = None, **fields: object
    ) -> list[str]:
        """Create tasks over HTTP and return their ids."""
        body = {"title": f"{handler} task", "handler": handler, "payload": payload} | fields
        ids = []
        for _ in range(count):
            response = self.http.post("/api/v1/tasks", json=body)
            assert response.status_code == httpx.codes.CREATED, response.text
            ids.append(str(response.json()["id"]))
        return ids

    def metric(self, pod: str, name: str) -> float:
        """Return the sum of a metric's samples from a pod's management port."""
        address = self.kube.pod_url(pod, METRIC_PORT)
        text = httpx.get(f"{address}/metrics", timeout=10, trust_env=False).text
        return sum(
            float(value)
            for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        )

    # -- the database --

    @cached_property
    def _connection(self) -> Any:
        connection = psycopg2.connect(self.environment.reachable(self.database_url))
        connection.autocommit = True
        return connection

    def query(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return list(cursor.fetchall())

    def attempts(self, ids: Iterable[str]) -> dict[str, list[Attempt]]:
        """Return the finished attempts of each task, in order."""
        attempts: dict[str, list[Attempt]] = {task_id: [] for task_id in ids}
        for row in self.query(ATTEMPTS, list(attempts)):
            attempts[row[0]].append(Attempt(*row))
        return attempts

    def held(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """Return the running tasks by pod."""
        tasks: dict[str, list[str]] = {}
        for task_id, pod in self.query(HELD, list(ids)):
            tasks.setdefault(pod, []).append(task_id)
        return tasks

    def until_running(self, ids: list[str], seconds: float = 20) -> dict[str, list[str]]:
        """Wait until all tasks run, and return them by pod."""

        def all_held() -> dict[str, list[str]] | None:
            held = self.held(ids)
            return held if sum(map(len, held.values())) == len(ids) else None

        return poll("runs of all tasks", all_held, seconds)

    def until_ended(self, ids: list[str], seconds: float = 60) -> dict[str, list[Attempt]]:
        """Wait until all tasks have ended, and return their attempts."""
        poll(f"the end of {len(ids)} tasks", lambda: self.query(OPEN, ids) == [(0,)], seconds)
        return self.attempts(ids)

    def busiest(self, ids: list[str]) -> tuple[str, list[str]]:
        """Wait until all tasks run; return the pod with most of them, and its tasks."""
        held = self.until_running(ids)
        pod = max(held, key=lambda name: len(held[name]))
        return pod, held[pod]

    def lease_end(self, worker_id: str) -> datetime:
        """Return when the lease of a lost worker expires."""
        ((end,),) = self.query(LEASE_END, worker_id)
        assert isinstance(end, datetime)
        return end

    def effects(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """Return what `side_effect` tasks have written, in order: "begin" and "end"."""
        phases: dict[str, list[str]] = {task_id: [] for task_id in ids}
        for task_id, phase in self.query(EFFECTS, list(phases)):
            phases[task_id].append(phase)
        return phases

    def close(self) -> None:
        """Close the connections to the API and the database."""
        for resource in ("http", "_connection"):
            if resource in self.__dict__:
                self.__dict__.pop(resource).close()


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod is Ready and not being deleted."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")
