"""One task service on the stage: what its users see over HTTP and kubectl, and what tests see in its database."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import httpx
import psycopg2

from tests.e2e.stage import Stage, secret, task_service
from tests.support.kube import Kube, Object, poll

ATTEMPTS = """
    SELECT
        r.task_id::text, r.fence, r.attempt, r.outcome, r.reason, r.final, r.claimed_at, r.finished_at,
        w.id::text, w.pod_name
    FROM runs AS r LEFT JOIN workers AS w ON w.id = r.worker_id
    WHERE r.task_id = ANY(%s::uuid[]) ORDER BY r.task_id, r.fence
"""
HELD = """
    SELECT q.task_id::text, w.pod_name FROM queue AS q JOIN workers AS w ON w.id = q.worker_id
    WHERE q.task_id = ANY(%s::uuid[]) AND q.state = 'running' AND q.started
"""
OPEN = "SELECT count(*) FROM queue WHERE task_id = ANY(%s::uuid[])"
WORKERS = "app.kubernetes.io/component=worker"
METRIC_PORT = 8081


@dataclass(frozen=True)
class Attempt:
    """A finished attempt of a task."""

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
    """A task service in a namespace of its own, with a database of its own."""

    def __init__(self, stage: Stage, kube: Kube, name: str, database_url: str) -> None:
        self.stage, self.kube, self.name, self.database_url = stage, kube, name, database_url

    @classmethod
    def prepare(
        cls, stage: Stage, namespace: str, name: str = "demo", *, with_secret: bool = True
    ) -> "Installation":
        """Make namespace, database and (unless told otherwise) the Secret with its URL."""
        kube = stage.namespace(namespace)
        url = stage.create_database(namespace)
        if with_secret:
            kube.apply(secret(url))
        return cls(stage, kube, name, url)

    # -- the TaskService --

    @property
    def target(self) -> str:
        return f"taskservice/{self.name}"

    def apply(self, **spec: Any) -> None:
        self.kube.apply(task_service(self.name, **spec))

    def until_ready(self, seconds: float = 120) -> None:
        """Wait until Ready is true of the newest spec."""
        self.kube.wait(self.target, "condition=Ready", seconds)

    def set_image(self, tag: str) -> None:
        self.kube.patch("taskservice", self.name, {"spec": {"image": {"tag": tag}}})

    def live(self) -> Object:
        return self.kube.get("taskservice", self.name)

    def worker_pods(self) -> list[Object]:
        """Ready worker pods that are to stay."""
        return [pod for pod in self.kube.list("pods", WORKERS) if is_ready(pod)]

    def until_workers(self, count: int = 2, seconds: float = 90) -> list[str]:
        """Wait until just so many workers are Ready and registered; their pods' names."""

        def settled() -> list[str]:
            names = sorted(pod["metadata"]["name"] for pod in self.worker_pods())
            return names if len(names) == count and names == self.registered() else []

        return poll(f"{count} workers", settled, seconds)

    def until_old_pods_are_gone(self, seconds: float = 90) -> None:
        """Wait until no pod is on its way out."""

        def none_leaves() -> bool:
            return not any(
                pod["metadata"].get("deletionTimestamp") for pod in self.kube.list("pods")
            )

        poll("the old pods are gone", none_leaves, seconds)

    def until_idle(self, seconds: float = 90) -> None:
        """Wait until there is nothing to do and the status says so: its figures may be half a minute old."""
        poll("the figures rest", lambda: not any(self.live()["status"]["queue"].values()), seconds)

    def until_status(self, part: str, wanted: Object, seconds: float = 30) -> None:
        """Wait until a part of the status says so: it follows what it tells of."""

        def says() -> bool:
            found = self.live()["status"].get(part) or {}
            return bool({name: found.get(name) for name in wanted} == wanted)

        poll(f"status.{part} says {wanted}", says, seconds)

    def registered(self) -> list[str]:
        """Pods of the workers that may claim."""
        rows = self.query("SELECT pod_name FROM workers WHERE state = 'active' ORDER BY pod_name")
        return [pod for (pod,) in rows]

    # -- HTTP --

    @cached_property
    def url(self) -> str:
        """The API's address by its Service."""
        return self.kube.service_url(f"{self.name}-api")

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def create(
        self, count: int, handler: str, payload: object = None, **fields: object
    ) -> list[str]:
        """Create tasks over HTTP; their ids."""
        body = {"title": f"{handler} task", "handler": handler, "payload": payload} | fields
        ids = []
        for _ in range(count):
            answer = self.http.post("/api/v1/tasks", json=body)
            assert answer.status_code == httpx.codes.CREATED, answer.text
            ids.append(str(answer.json()["id"]))
        return ids

    def metric(self, pod: str, name: str) -> float:
        """Sum of a metric's samples, from a pod's management port."""
        address = self.kube.pod_url(pod, METRIC_PORT)
        text = httpx.get(f"{address}/metrics", timeout=10, trust_env=False).text
        return sum(
            float(value)
            for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        )

    # -- the database --

    @cached_property
    def _connection(self) -> Any:
        connection = psycopg2.connect(self.stage.reachable(self.database_url))
        connection.autocommit = True
        return connection

    def query(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return list(cursor.fetchall())

    def attempts(self, ids: Iterable[str]) -> dict[str, list[Attempt]]:
        """The finished attempts of each task, in order."""
        found: dict[str, list[Attempt]] = {task_id: [] for task_id in ids}
        for row in self.query(ATTEMPTS, list(found)):
            found[row[0]].append(Attempt(*row))
        return found

    def held(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """The tasks that run now, by pod."""
        found: dict[str, list[str]] = {}
        for task_id, pod in self.query(HELD, list(ids)):
            found.setdefault(pod, []).append(task_id)
        return found

    def until_running(self, ids: list[str], seconds: float = 20) -> dict[str, list[str]]:
        """Wait until all tasks run; what each pod holds."""

        def all_held() -> dict[str, list[str]] | None:
            held = self.held(ids)
            return held if sum(map(len, held.values())) == len(ids) else None

        return poll("all tasks run", all_held, seconds)

    def until_ended(self, ids: list[str], seconds: float = 60) -> dict[str, list[Attempt]]:
        """Wait until no task is open any more; their attempts."""
        poll(f"{len(ids)} tasks have ended", lambda: self.query(OPEN, ids) == [(0,)], seconds)
        return self.attempts(ids)

    def busiest(self, ids: list[str]) -> tuple[str, list[str]]:
        """Wait until all tasks run; the pod that holds most of them, and which."""
        held = self.until_running(ids)
        pod = max(held, key=lambda name: len(held[name]))
        return pod, held[pod]

    def lease_end(self, worker_id: str) -> datetime:
        """When the lease of a worker that is gone was or will be over."""
        ((end,),) = self.query(
            "SELECT heartbeat_at + make_interval(secs => lease_seconds) FROM workers WHERE id = %s::uuid",
            worker_id,
        )
        assert isinstance(end, datetime)
        return end

    def effects(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """What `side_effect` tasks have written, in order: "begin" and "end"."""
        found: dict[str, list[str]] = {task_id: [] for task_id in ids}
        sql = "SELECT task_id::text, phase FROM side_effects WHERE task_id = ANY(%s::uuid[]) ORDER BY number"
        for task_id, phase in self.query(sql, list(found)):
            found[task_id].append(phase)
        return found

    def close(self) -> None:
        """Close the connections to API and database."""
        for resource in ("http", "_connection"):
            if resource in self.__dict__:
                self.__dict__.pop(resource).close()


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is Ready and not on its way out."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")
