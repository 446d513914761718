"""kubectl and helm for tests: objects, watches, addresses, and signals to containers."""

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.cluster.cluster import Cluster
from tests.support.cluster import ExistingCluster
from tests.support.port_forward import PortForward

Object = dict[str, Any]
T = TypeVar("T")
POLL_SECONDS = 0.2  # each kubectl call takes 0.1 s of CPU time
CONNECT_SECONDS = 2.0


class CommandError(RuntimeError):
    """Raised with the output of a command that failed."""


def poll(what: str, ask: Callable[[], T | None], seconds: float = 30) -> T:
    """Call `ask` until its result is true, and return that result.

    Raises AssertionError with the last result when the time is over. Use `Kube.wait` or
    `Kube.watch` for objects of Kubernetes.
    """
    deadline = time.monotonic() + seconds
    while not (result := ask()):
        assert time.monotonic() < deadline, (
            f"{what} did not happen within {seconds:g} s; last result: {result!r}"
        )
        time.sleep(POLL_SECONDS)
    return result


@dataclass(frozen=True)
class Event:
    """Event of a watch: ADDED, MODIFIED or DELETED, its time (monotonic), and the object."""

    type: str
    at: float
    object: Object

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])


class Watch:
    """Events of a kind in order, from `Kube.watch`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.seen: list[Event] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        """Stop kubectl and read its remaining output."""
        self._process.terminate()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            self._events.put(Event(event["type"], time.monotonic(), event["object"]))

    def until(self, what: str, holds: Callable[[Event], bool], seconds: float = 30) -> Event:
        """Return the next event for which `holds`. Raises AssertionError with the other events."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                passed = [f"{event.type} {event.name}" for event in self.seen]
                raise AssertionError(
                    f"{what} did not happen within {seconds:g} s; events: {passed}"
                ) from None
            self.seen.append(event)
            if holds(event):
                return event


class Kube:
    """kubectl and helm for one cluster and namespace."""

    def __init__(
        self,
        cluster: Cluster | ExistingCluster,
        namespace: str = "default",
        forwards: dict[str, PortForward] | None = None,
    ) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.environment = os.environ | dict(cluster.environment)
        self._forwards = {} if forwards is None else forwards

    def of(self, namespace: str) -> "Kube":
        """Return kubectl and helm for another namespace."""
        return Kube(self.cluster, namespace, self._forwards)

    def close(self) -> None:
        """Stop all port-forwards, including those of other namespaces."""
        while self._forwards:
            self._forwards.popitem()[1].close()

    def run(self, *argv: object, input: str | None = None) -> str:
        """Run kubectl and return its output. Raises CommandError."""
        return self._command("kubectl", "--namespace", self.namespace, *argv, input=input)

    def helm(self, *argv: object) -> str:
        """Run helm and return its output. Raises CommandError."""
        return self._command("helm", "--namespace", self.namespace, *argv)

    def _command(self, *argv: object, input: str | None = None) -> str:
        words = [str(word) for word in argv]
        done = subprocess.run(
            words, input=input, capture_output=True, text=True, env=self.environment, check=False
        )
        if done.returncode:
            raise CommandError(f"{' '.join(words)}: {done.stderr}{done.stdout}".strip())
        return done.stdout

    # -- objects --

    def get(self, kind: str, name: str) -> Object:
        found = self.find(kind, name)
        if found is None:
            raise CommandError(f"no {kind} {name} in {self.namespace}")
        return found

    def find(self, kind: str, name: str) -> Object | None:
        """Return the object, or None if it does not exist."""
        text = self.run("get", kind, name, "--output=json", "--ignore-not-found")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        items: list[Object] = json.loads(
            self.run("get", kind, f"--selector={selector}", "--output=json")
        )["items"]
        return items

    def apply(self, *manifests: Object, manager: str = "tests") -> None:
        """Apply server-side. Raises CommandError with the API server's message."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        flags = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
        self.run("apply", *flags, "-f", "-", input=json.dumps(items))

    def patch(self, kind: str, name: str, change: Object, *extra: str) -> None:
        """Merge the change into the object. `extra` are flags such as --subresource=status."""
        self.run("patch", kind, name, "--type=merge", f"--patch={json.dumps(change)}", *extra)

    def delete(self, kind: str, name: str, *extra: str) -> None:
        """Delete without waiting. `extra` are flags such as --grace-period=0 --force."""
        self.run("delete", kind, name, "--wait=false", "--ignore-not-found", *extra)

    @contextmanager
    def temporary_namespace(self, name: str, *, enforce: str = "restricted") -> Iterator["Kube"]:
        """Create a namespace with this Pod Security level, and delete it afterwards."""
        labels = {"pod-security.kubernetes.io/enforce": enforce}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )
        try:
            yield self.of(name)
        finally:
            self.run("delete", "namespace", name, "--wait=true", "--timeout=120s")

    # -- waiting --

    def wait(self, target: str, condition: str, seconds: float = 60) -> None:
        """Run `kubectl wait` for a target such as "pod/NAME" and e.g. "condition=Ready"."""
        self.run("wait", *target.split(), f"--for={condition}", f"--timeout={seconds:g}s")

    def rollout(self, target: str, seconds: float = 90) -> None:
        """Wait for the rollout of a Deployment or StatefulSet such as "deployment/NAME"."""
        self.run("rollout", "status", target, f"--timeout={seconds:g}s")

    @contextmanager
    def watch(self, kind: str, selector: str = "") -> Iterator[Watch]:
        """Watch a kind: ADDED for each existing object, then every change."""
        flags = ("--watch", "--output-watch-events", "--output=json", f"--selector={selector}")
        argv = ["kubectl", "--namespace", self.namespace, "get", kind, *flags]
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, text=True, env=self.environment
        ) as process:
            watch = Watch(process)
            try:
                yield watch
            finally:
                watch.end()

    # -- pods --

    def service_url(self, name: str, port: int = 80) -> str:
        """Return the URL of a Service, reachable from this machine."""
        return f"http://{self.address(f'service/{name}', port)}"

    def pod_url(self, name: str, port: int) -> str:
        """Return the URL of a pod, reachable from this machine."""
        return f"http://{self.address(f'pod/{name}', port)}"

    def address(self, target: str, port: int) -> str:
        """Return host and port of "service/NAME" or "pod/NAME", reachable from this machine.

        That is the address in the cluster if possible, and otherwise a port-forward to one pod.
        """
        found = self.get(*target.split("/", 1))
        ip = found["spec"].get("clusterIP") or found["status"]["podIP"]
        if isinstance(self.cluster, Cluster) or _is_reachable(ip, port):
            return f"{ip}:{port}"
        key = f"{self.namespace} {target} {port}"
        if key not in self._forwards or not self._forwards[key].is_running:
            flags = ("--namespace", self.namespace, "port-forward", "--address=127.0.0.1")
            command = ["kubectl", *flags, target, f":{port}"]
            self._forwards[key] = PortForward(command, self.environment)
        return self._forwards[key].address

    def is_forwarded(self, url: str) -> bool:
        """Return whether the URL leads through a port-forward, which ends with its pod."""
        return any(f"//{forward.address}" in url for forward in self._forwards.values())

    def signal(
        self, pod: str, number: signal.Signals, container: str | None = None, *, every: bool = False
    ) -> None:
        """Send a signal to the first process of a pod's container, or to `every` process."""
        pids = self.cluster.pids(self.namespace, pod, container)
        if not pids:
            raise CommandError(f"no running container of {self.namespace}/{pod}")
        for pid in pids if every else pids[:1]:
            os.kill(pid, number)

    def logs(self, target: str, *extra: str) -> str:
        return self.run("logs", target, "--all-containers", *extra)


def _is_reachable(ip: str, port: int) -> bool:
    try:
        with socket.create_connection((ip, port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
