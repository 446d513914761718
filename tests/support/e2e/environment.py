"""Environment of the end-to-end tests: a cluster with the operator, PostgreSQL and Valkey.

The tests cut off node 2, so operator, database and API run on node 1.
"""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from tests.cluster.cluster import Cluster
from tests.support import images
from tests.support.cluster import ExistingCluster, own_or_existing_cluster, uses_existing_cluster
from tests.support.kube import Kube, Object, poll

ROOT = Path(__file__).resolve().parents[3]
OPERATOR, DATABASE = "task-operator", "database"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR}:{OPERATOR}"
OPERATOR_REPLICAS = 2
SERVICE_IMAGE = os.environ.get("E2E_SERVICE_IMAGE", images.SERVICE)
OPERATOR_IMAGE = os.environ.get("E2E_OPERATOR_IMAGE", images.OPERATOR)
POSTGRESQL_IMAGE = os.environ.get("E2E_POSTGRESQL_IMAGE", "localhost/postgres:17")
VALKEY_IMAGE = os.environ.get("E2E_VALKEY_IMAGE", "localhost/valkey:8")
NODES = 2
SAMPLE: Object = yaml.safe_load((ROOT / "k8s/samples/minimal.yaml").read_text())
SECRET = str(SAMPLE["spec"]["database"]["secretRef"]["name"])
NODE_1 = {} if uses_existing_cluster() else {"kubernetes.io/hostname": "node-1"}
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
class Environment:
    """A running cluster with everything except the task services."""

    cluster: Cluster | ExistingCluster
    kube: Kube
    database_url: str
    """URL of PostgreSQL for pods, with the database that the chart created."""

    @property
    def own_cluster(self) -> Cluster:
        """The cluster that the tests started; the test is skipped on any other one."""
        if isinstance(self.cluster, ExistingCluster):
            self.cluster.skip()
        return self.cluster

    def namespace(self, name: str) -> Kube:
        """Create a new namespace with restricted Pod Security."""
        self.kube.run("delete", "namespace", name, "--ignore-not-found", "--timeout=90s")
        self.kube.apply(_namespace(name))
        return self.kube.of(name)

    def create_database(self, name: str) -> str:
        """Create an empty database, replacing an existing one, and return its URL for pods."""
        with closing(psycopg2.connect(self.reachable(self.database_url))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
                cursor.execute(f'CREATE DATABASE "{name}"')
        return self.database_url.rpartition("/")[0] + f"/{name}"

    def reachable(self, url: str) -> str:
        """Convert a database URL for pods to one that this machine can reach."""
        service = f"{DATABASE}-postgresql"
        address = self.kube.of(DATABASE).address(f"service/{service}", 5432)
        return url.replace(f"{service}.{DATABASE}:5432", address)

    @contextmanager
    def operator_stopped(self) -> Iterator[None]:
        """Scale the operator to zero during the block."""
        operator = self.kube.of(OPERATOR)
        operator.run("scale", f"deployment/{OPERATOR}", "--replicas=0")
        poll("the end of the operator's pods", lambda: not operator.list("pods"), 60)
        try:
            yield
        finally:
            operator.run("scale", f"deployment/{OPERATOR}", f"--replicas={OPERATOR_REPLICAS}")
            operator.rollout(f"deployment/{OPERATOR}")


@contextmanager
def running_environment(number: int | None = None) -> Iterator[Environment]:
    """Start the environment and remove it afterwards (see `running_cluster` on KEEP_CLUSTER)."""
    with own_or_existing_cluster(NODES, images.archives, number) as cluster:
        kube = Kube(cluster)
        start_database(kube)
        install_operator(kube)
        database = kube.of(DATABASE)
        database.rollout(f"statefulset/{DATABASE}-postgresql")
        database.rollout(f"statefulset/{DATABASE}-valkey")
        name = f"{DATABASE}-postgresql"
        secret = database.get("secret", name)["data"]["url"]
        url = base64.b64decode(secret).decode().replace(f"@{name}:", f"@{name}.{DATABASE}:")
        try:
            yield Environment(cluster, kube, url)
        finally:
            kube.close()


def install_operator(kube: Kube) -> None:
    """Install the operator with its chart and wait until it is ready."""
    kube.apply(_namespace(OPERATOR))
    flags = [
        f"--set=image.repository={OPERATOR_IMAGE},image.tag=1",
        f"--set=replicas={OPERATOR_REPLICAS}",
        f"--set-json=nodeSelector={json.dumps(NODE_1)}",
    ]
    chart = ROOT / "charts/task-operator"
    kube.of(OPERATOR).helm(
        "upgrade", "--install", OPERATOR, chart, *flags, "--wait", "--timeout=120s"
    )
    kube.wait("crd/taskservices.taskservice.dev", "condition=Established")


def start_database(kube: Kube) -> None:
    """Apply PostgreSQL and Valkey of the service's chart, on node 1."""
    kube.apply(_namespace(DATABASE))
    settings = f"postgresql.image={POSTGRESQL_IMAGE},valkey.image={VALKEY_IMAGE}"
    settings += ",postgresql.resources.limits.memory=2Gi"  # shared by all task services
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
    """Return the minimal sample without authentication, with short leases and spread workers.

    Keywords replace top-level fields of the spec.
    """
    defaults: Object = {
        "image": {"repository": SERVICE_IMAGE, "tag": "1-test"},
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
    return SAMPLE | {"metadata": {"name": name}, "spec": SAMPLE["spec"] | defaults | spec}


def workers(replicas: int = 2, **fields: Any) -> Object:
    """Return the worker part of a spec, with a memory limit that a test can exceed."""
    limits = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    defaults: Object = {"replicas": replicas, "concurrency": CONCURRENCY, "resources": limits}
    return defaults | {"topologySpreadConstraints": [SPREAD]} | fields


def small(**fields: Any) -> Object:
    """Return fields of a spec with one API pod and one worker pod."""
    return {"api": {"replicas": 1}, "worker": {"replicas": 1}, **fields}


def secret(url: str) -> Object:
    """Return the Secret that the sample refers to."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": {"url": url},
    }


def condition(task_service: Object, kind: str) -> Object:
    """Return a condition of a TaskService, or an empty object."""
    conditions = (task_service.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item["type"] == kind), {})


def _namespace(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": RESTRICTED},
    }
