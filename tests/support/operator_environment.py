"""A real API server, a fake kubelet, and operators as processes of their own with the rights of
their chart.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.cluster import Cluster
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_management_port import FakeManagementPort
from tests.support.kube import Kube

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
OPERATOR_NAMESPACE, RELEASE = "task-operator", "task-operator"
USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}"


class OperatorProcess:
    """`task-operator run` as a process; its log lines are kept and can be waited for."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.lines: list[Object] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "task_operator", "run"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for("started")["port"])

    def wait_for(self, event: str, seconds: float = 30, **fields: object) -> Object:
        """The first log line of that event with those fields."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._find(event, fields), seconds)
        assert found, f"no {event} {fields} within {seconds} s; the log: {self.lines}"
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 15) -> int:
        """Send a signal and wait for the end; returns the exit code. The log is shown with a test
        that fails.
        """
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        print(*self.lines, sep="\n")
        return code

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait until the process ends by itself; returns the exit code."""
        return self._process.wait(seconds)

    def _find(self, event: str, fields: dict[str, object]) -> Object | None:
        for line in self.lines:
            if line.get("event") == event and all(
                line.get(name) == value for name, value in fields.items()
            ):
                return line
        return None

    def _read(self) -> None:
        assert self._process.stderr
        for text in self._process.stderr:
            line = (
                json.loads(text)
                if text.startswith("{")
                else {"event": "text", "text": text.rstrip()}
            )
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()


@dataclass
class World:
    """What a test of the operator works with."""

    cluster: Cluster
    kube: Kube
    kubelet: FakeKubelet
    stand_in: FakeManagementPort
    kubeconfig: Path
    names: set[str] = field(default_factory=set)

    def start_operator(self, **settings: object) -> OperatorProcess:
        """A candidate; with the settings' names in lower case."""
        environment = os.environ | self.cluster.environment
        environment |= {
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": str(ROOT / "operator"),
            "POD_NAMESPACE": OPERATOR_NAMESPACE,
            "CHART": str(ROOT / "charts/task-service"),
            "HOST": "127.0.0.1",
            "PORT": "0",
            "MANAGEMENT_PORT": str(self.stand_in.port),
        }
        return OperatorProcess(
            environment | {name.upper(): str(value) for name, value in settings.items()}
        )

    def namespace(self, name: str) -> Kube:
        """A fresh namespace with the Secrets "database" and "tokens"; it goes with the cluster."""
        assert name not in self.names, f"{name} is taken"
        self.names.add(name)
        self.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        kube = self.kube.of(name)
        kube.apply(secret("database"), secret("tokens", "secret-key"))
        return kube


def install_rights(kube: Kube, release: str = RELEASE, *flags: str) -> None:
    """Everything of the operator's chart but what runs it."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}})
    mine = kube.of(OPERATOR_NAMESPACE)
    text = mine.helm("template", release, ROOT / "charts/task-operator", *flags)
    for item in yaml.safe_load_all(text):
        if item and item["kind"] not in ("Deployment", "Service"):
            kube.of(item["metadata"].get("namespace", OPERATOR_NAMESPACE)).apply(item)
    kube.wait("crd/taskservices.taskservice.dev", "condition=Established")


def operator_kubeconfig(kube: Kube, target: Path, release: str = RELEASE) -> Path:
    """A kubeconfig with a token of the operator's ServiceAccount, so that it has its chart's rights
    and no more.
    """
    token = kube.of(OPERATOR_NAMESPACE).run("create", "token", release, "--duration=2h").strip()
    config = yaml.safe_load(kube.cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    target.write_text(yaml.safe_dump(config))
    return target


def secret(name: str, key: str = "url") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {key: "postgresql://x"},
    }


def task_service(name: str = "demo", **spec: Any) -> Object:
    """A TaskService with two API pods and two workers; keyword arguments replace top-level fields
    of the spec.
    """
    given: Object = {
        "image": {"repository": "localhost/task-service", "tag": "1"},
        "api": {"replicas": 2},
        "worker": {"replicas": 2},
        "database": {"secretRef": {"name": "database", "key": "url"}},
        "auth": {"secretRef": {"name": "tokens"}},
    }
    return {
        "apiVersion": "taskservice.dev/v1alpha1",
        "kind": "TaskService",
        "metadata": {"name": name},
        "spec": given | spec,
    }


def condition(obj: Object, kind: str) -> Object:
    """A status condition; empty without it."""
    return next(
        (
            item
            for item in (obj.get("status") or {}).get("conditions") or ()
            if item["type"] == kind
        ),
        {},
    )


def metric(text: str, name: str) -> float:
    """Sum of a metric's samples."""
    pattern = re.compile(rf"^{name}(?:{{[^}}]*}})? (\S+)$", re.MULTILINE)
    return sum(float(value) for value in pattern.findall(text))
