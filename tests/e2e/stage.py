"""The stage of end-to-end tests, demo and bench: a cluster of two nodes, the operator, PostgreSQL and Valkey.

What a test cuts off is node 2, so everything that has to stay is on node 1: operator, database and the API.
"""

import base64
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from tests.cluster.cluster import Cluster
from tests.support import images
from tests.support.cluster import running_cluster
from tests.support.kube import Kube, Object, poll

ROOT = Path(__file__).resolve().parents[2]
OPERATOR, DATABASE = "task-operator", "database"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR}:{OPERATOR}"
OPERATOR_REPLICAS = 2
NODES = 2
SAMPLE: Object = yaml.safe_load((ROOT / "k8s/samples/minimal.yaml").read_text())
SECRET = str(SAMPLE["spec"]["database"]["secretRef"]["name"])
NODE_1 = {"kubernetes.io/hostname": "node-1"}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
HEARTBEAT_SECONDS, LEASE_SECONDS = 1, 5
TASK_SECONDS = 1
CONCURRENCY = 20
SPREAD = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "matchLabelKeys": ["pod-template-hash"],
}


@dataclass(frozen=True)
class Stage:
    """A running cluster with everything but the task services themselves."""

    cluster: Cluster
    kube: Kube
    database_url: str
    """PostgreSQL's URL as pods see it, with the database that the chart made."""

    def namespace(self, name: str) -> Kube:
        """A fresh namespace under restricted Pod Security."""
        self.kube.run(
            "delete", "namespace", name, "--ignore-not-found", "--timeout=90s"
        )  # of a kept cluster
        self.kube.apply(_namespace(name))
        return self.kube.of(name)

    def create_database(self, name: str) -> str:
        """Make an empty database, replacing one of that name; its URL as pods see it."""
        with closing(psycopg2.connect(self.reachable(self.database_url))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
                cursor.execute(f'CREATE DATABASE "{name}"')
        return self.database_url.rpartition("/")[0] + f"/{name}"

    def reachable(self, url: str) -> str:
        """The URL for this machine, which does not ask the cluster's DNS."""
        host = f"{DATABASE}-postgresql.{DATABASE}"
        return url.replace(
            host,
            self.kube.of(DATABASE).get("service", f"{DATABASE}-postgresql")["spec"]["clusterIP"],
        )

    @contextmanager
    def operator_stopped(self) -> Iterator[None]:
        """Scale the operator to zero for as long as the block runs."""
        operator = self.kube.of(OPERATOR)
        operator.run("scale", f"deployment/{OPERATOR}", "--replicas=0")
        poll("the operator's pods are gone", lambda: not operator.list("pods"), 60)
        try:
            yield
        finally:
            operator.run("scale", f"deployment/{OPERATOR}", f"--replicas={OPERATOR_REPLICAS}")
            operator.rollout(f"deployment/{OPERATOR}")


@contextmanager
def running_stage(number: int | None = None) -> Iterator[Stage]:
    """Set the stage; it is gone afterwards (see `running_cluster` on KEEP_CLUSTER)."""
    with running_cluster(NODES, images.archives(), number) as cluster:
        kube = Kube(cluster)
        start_database(kube)
        install_operator(kube)
        database = kube.of(DATABASE)
        database.rollout(f"statefulset/{DATABASE}-postgresql")
        database.rollout(f"statefulset/{DATABASE}-valkey")
        secret = database.get("secret", f"{DATABASE}-postgresql")["data"]["url"]
        name = f"{DATABASE}-postgresql"
        yield Stage(
            cluster,
            kube,
            base64.b64decode(secret).decode().replace(f"@{name}:", f"@{name}.{DATABASE}:"),
        )


def install_operator(kube: Kube) -> None:
    """Install the operator by its chart and wait until it is ready."""
    kube.apply(_namespace(OPERATOR))
    flags = [
        "--set=image.tag=1",
        f"--set=replicas={OPERATOR_REPLICAS}",
        "--set-json",
        f"nodeSelector={_json(NODE_1)}",
    ]
    chart = ROOT / "charts/task-operator"
    kube.of(OPERATOR).helm(
        "upgrade", "--install", OPERATOR, chart, *flags, "--wait", "--timeout=120s"
    )
    kube.wait("crd/taskservices.taskservice.dev", "condition=Established")


def start_database(kube: Kube) -> None:
    """Apply the PostgreSQL and the Valkey of the workload's chart, on node 1."""
    kube.apply(_namespace(DATABASE))
    settings = "postgresql.image=localhost/postgres:17,valkey.image=localhost/valkey:8"
    settings += ",postgresql.resources.limits.memory=2Gi"  # one for all task services
    parts = [f"--show-only=templates/{part}.yaml" for part in ("postgresql", "valkey")]
    values = ROOT / "charts/task-service/values-dev.yaml"
    text = kube.of(DATABASE).helm(
        "template",
        DATABASE,
        ROOT / "charts/task-service",
        f"--values={values}",
        f"--set={settings}",
        *parts,
    )
    manifests = [item for item in yaml.safe_load_all(text) if item]
    for item in manifests:
        if item["kind"] == "StatefulSet":
            item["spec"]["template"]["spec"]["nodeSelector"] = NODE_1
    kube.of(DATABASE).apply(*manifests)


def task_service(name: str = "demo", **spec: Any) -> Object:
    """The smallest sample, open to everybody, with the API on node 1 and a worker on each node.

    Keywords replace top-level fields.
    """
    given: Object = {
        "image": {"repository": images.SERVICE, "tag": "1-test"},
        "api": {"replicas": 2, "nodeSelector": NODE_1},
        "worker": workers(),
        "auth": {"mode": "open"},
        "settings": {
            "environment": "development",
            "heartbeatSeconds": HEARTBEAT_SECONDS,
            "leaseSeconds": LEASE_SECONDS,
            "conversationsMinSeconds": TASK_SECONDS,
            "conversationsMaxSeconds": TASK_SECONDS,
        },
        "migration": {"backoffLimit": 0},
    }
    return SAMPLE | {"metadata": {"name": name}, "spec": SAMPLE["spec"] | given | spec}


def workers(replicas: int = 2, **more: Any) -> Object:
    """The worker part of a spec: small enough to be killed for its memory."""
    limits = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    given: Object = {"replicas": replicas, "concurrency": CONCURRENCY, "resources": limits}
    return given | {"topologySpreadConstraints": [SPREAD]} | more


def small(**more: Any) -> Object:
    """Fields of a spec with one pod of each kind, where numbers do not matter."""
    return {"api": {"replicas": 1}, "worker": {"replicas": 1}, **more}


def secret(url: str) -> Object:
    """The Secret that the sample names."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": {"url": url},
    }


def condition(task_service: Object, kind: str) -> Object:
    """A condition of a TaskService; empty without it."""
    conditions = (task_service.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item["type"] == kind), {})


def _namespace(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": RESTRICTED},
    }


def _json(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'"{key}":"{value}"' for key, value in labels.items()) + "}"
