"""kubectl and helm for tests: JSON in and out, waiting on watches, addresses, and signals to containers."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.cluster.cluster import Cluster

Object = dict[str, Any]
T = TypeVar("T")
POLL_SECONDS = 0.2  # kubectl costs a tenth of a core-second each time


class CommandError(RuntimeError):
    """A command failed; the text is what it said."""


def poll(what: str, ask: Callable[[], T | None], seconds: float = 30) -> T:
    """Ask until the answer is true and return it; AssertionError with the last answer when the time is over.

    For what cannot be watched. What Kubernetes keeps is better waited for with `Kube.wait` or `Kube.watch`.
    """
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, (
            f"{what}: not within {seconds:g} s, last answer {answer!r}"
        )
        time.sleep(POLL_SECONDS)
    return answer


@dataclass(frozen=True)
class Event:
    """One change that a watch saw: ADDED, MODIFIED or DELETED, when (monotonic clock), and the object."""

    type: str
    at: float
    object: Object

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])


class Watch:
    """The changes of a kind, in order; made by `Kube.watch`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.seen: list[Event] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        """Stop kubectl and read what it still said, before its pipe is closed."""
        self._process.terminate()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            self._events.put(Event(event["type"], time.monotonic(), event["object"]))

    def until(self, what: str, holds: Callable[[Event], bool], seconds: float = 30) -> Event:
        """The next event for which `holds`; AssertionError with what came instead when the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                passed = [f"{event.type} {event.name}" for event in self.seen]
                raise AssertionError(f"{what}: not within {seconds:g} s; seen: {passed}") from None
            self.seen.append(event)
            if holds(event):
                return event


class Kube:
    """kubectl and helm, pointed at a cluster and a namespace."""

    def __init__(self, cluster: Cluster, namespace: str = "default") -> None:
        self.cluster, self.namespace = cluster, namespace
        self.environment = os.environ | cluster.environment

    def of(self, namespace: str) -> "Kube":
        """The same in another namespace."""
        return Kube(self.cluster, namespace)

    def run(self, *argv: object, input: str | None = None) -> str:
        """Run kubectl and return its output; raises CommandError with what it said."""
        return self._command("kubectl", "--namespace", self.namespace, *argv, input=input)

    def helm(self, *argv: object) -> str:
        """Run helm and return its output; raises CommandError with what it said."""
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
        """The object, or None where there is none."""
        text = self.run("get", kind, name, "--output=json", "--ignore-not-found")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def list(self, kind: str, selector: str = "") -> list[Object]:
        items: list[Object] = json.loads(
            self.run("get", kind, f"--selector={selector}", "--output=json")
        )["items"]
        return items

    def apply(self, *manifests: Object, manager: str = "tests") -> None:
        """Apply server-side. Raises CommandError with the API server's words, such as a refused field's name."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        flags = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
        self.run("apply", *flags, "-f", "-", input=json.dumps(items))

    def patch(self, kind: str, name: str, change: Object, *extra: str) -> None:
        """Merge the change into the object; extra flags such as --subresource=status."""
        self.run("patch", kind, name, "--type=merge", f"--patch={json.dumps(change)}", *extra)

    def delete(self, kind: str, name: str, *extra: str) -> None:
        """Delete and return at once; extra flags such as --grace-period=0 --force."""
        self.run("delete", kind, name, "--wait=false", "--ignore-not-found", *extra)

    @contextmanager
    def temporary_namespace(self, name: str, *, enforce: str = "restricted") -> Iterator["Kube"]:
        """A namespace with that Pod Security level, deleted afterwards with everything in it."""
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
        """`kubectl wait`: target such as "pod/NAME" or "pods --selector=…", condition such as "condition=Ready"."""
        self.run("wait", *target.split(), f"--for={condition}", f"--timeout={seconds:g}s")

    def rollout(self, target: str, seconds: float = 90) -> None:
        """Wait until a Deployment or StatefulSet ("deployment/NAME") has rolled out."""
        self.run("rollout", "status", target, f"--timeout={seconds:g}s")

    @contextmanager
    def watch(self, kind: str, selector: str = "") -> Iterator[Watch]:
        """Watch a kind: first ADDED for what is there, then every change."""
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
        """The Service's address, reachable from this machine by way of node 1."""
        return f"http://{self.get('service', name)['spec']['clusterIP']}:{port}"

    def pod_url(self, name: str, port: int) -> str:
        return f"http://{self.get('pod', name)['status']['podIP']}:{port}"

    def signal(
        self, pod: str, number: signal.Signals, container: str | None = None, *, every: bool = False
    ) -> None:
        """Send a signal to the first process of a pod's container, or to every one (SIGSTOP stops only its process)."""
        pids = self.cluster.pids(self.namespace, pod, container)
        if not pids:
            raise CommandError(f"no running container of {self.namespace}/{pod}")
        for pid in pids if every else pids[:1]:
            os.kill(pid, number)

    def logs(self, target: str, *extra: str) -> str:
        return self.run("logs", target, "--all-containers", *extra)
