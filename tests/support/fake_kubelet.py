"""A kubelet that runs nothing: it tells the API server what a real one would tell.

Why: on two cores a cluster with real nodes takes a minute and every pod a share of a core, while
tests of the operator need only what pods *say*: a Job that ends, a pod that becomes Ready, a
container that was killed. Scheduler, controllers, garbage collection and the API server are the
real ones. What really happens in pods is the end-to-end tests' business.
"""

import base64
import ssl
import tempfile
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

NODE = "fake"
PERIOD_SECONDS = 0.1
HEARTBEAT_SECONDS = 5.0
Object = dict[str, Any]


class FakeKubelet:
    """Serves one node, from `with` to its end."""

    def __init__(self, kubeconfig: Path, pod_ip: str = "127.0.0.1") -> None:
        """`pod_ip` becomes the address of every pod."""
        self.failing: dict[str, str] = {}
        """Image of a container that ends with an error, and its termination message."""
        self._pod_ip = pod_ip
        self._http = _client(kubeconfig)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._loop, daemon=True),
            threading.Thread(target=self._beat, daemon=True),
        ]
        self.errors: list[str] = []

    def __enter__(self) -> "FakeKubelet":
        self._register()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._http.close()

    # -- what tests do to pods --

    def end_container(self, pod: Object, *, exit_code: int, reason: str = "Error") -> None:
        """Let the pod's only container end; it stays down until `restart_container`."""
        with self._lock:
            status = self._status(pod)
            running = status["containerStatuses"][0]["state"].get("running") or {
                "startedAt": _now()
            }
            ended = {"exitCode": exit_code, "reason": reason, "finishedAt": _now()} | running
            status["containerStatuses"][0] |= {
                "ready": False,
                "started": False,
                "state": {"terminated": ended},
            }
            self._set_ready(status, ready=False)
            self._patch_status(pod, status)

    def restart_container(self, pod: Object, started_at: str) -> None:
        """Start the container again, at a time in whole seconds (RFC 3339)."""
        with self._lock:
            status = self._status(pod)
            container = status["containerStatuses"][0]
            container["lastState"] = container["state"]
            container |= {
                "ready": True,
                "started": True,
                "restartCount": container["restartCount"] + 1,
            }
            container["state"] = {"running": {"startedAt": started_at}}
            self._set_ready(status, ready=True)
            self._patch_status(pod, status)

    # -- the node --

    def _register(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        answer = self._http.post("/api/v1/nodes", json=node)
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()
        self._report_node()

    def _report_node(self) -> None:
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Fake",
            "message": "",
            "lastHeartbeatTime": _now(),
        }
        room = {"cpu": "1000", "memory": "1000Gi", "pods": "10000", "ephemeral-storage": "1000Gi"}
        status = {"conditions": [ready], "capacity": room, "allocatable": room}
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        answer = self._http.request(
            "PATCH", f"/api/v1/nodes/{NODE}/status", json={"status": status}, headers=headers
        )
        answer.raise_for_status()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self._report_node()
            except httpx.HTTPError as error:
                self.errors.append(f"heartbeat: {error}")

    # -- the pods --

    def _loop(self) -> None:
        while not self._over.wait(PERIOD_SECONDS):
            try:
                answer = self._http.get(
                    "/api/v1/pods", params={"fieldSelector": f"spec.nodeName={NODE}"}
                )
                for pod in answer.raise_for_status().json()["items"]:
                    self._tend(pod)
            except httpx.HTTPError as error:
                self.errors.append(str(error))

    def _tend(self, pod: Object) -> None:
        with self._lock:
            if "deletionTimestamp" in pod["metadata"]:
                options = {
                    "gracePeriodSeconds": 0,
                    "preconditions": {"uid": pod["metadata"]["uid"]},
                }
                self._http.request("DELETE", _path(pod), json=options)
            elif pod["status"].get("phase", "Pending") == "Pending":
                self._start(pod)

    def _start(self, pod: Object) -> None:
        """The first report on a pod: running, ended, or what is missing."""
        container = pod["spec"]["containers"][0]
        if missing := self._missing_secret(pod):
            waiting = {"waiting": {"reason": "ContainerCreating"}}
            status = {"phase": "Pending", "containerStatuses": [_container(container, waiting)]}
            if pod["status"].get("containerStatuses") is None:
                self._patch_status(pod, status)
                self._record_failed_mount(pod, missing)
            return
        message = self.failing.get(container["image"])
        if message is not None:
            ended = {
                "exitCode": 1,
                "reason": "Error",
                "message": message,
                "startedAt": _now(),
                "finishedAt": _now(),
            }
            status = {
                "phase": "Failed",
                "containerStatuses": [_container(container, {"terminated": ended})],
            }
        elif pod["spec"].get("restartPolicy") == "Never":
            ended = {
                "exitCode": 0,
                "reason": "Completed",
                "startedAt": _now(),
                "finishedAt": _now(),
            }
            status = {
                "phase": "Succeeded",
                "containerStatuses": [_container(container, {"terminated": ended})],
            }
        else:
            running = _container(container, {"running": {"startedAt": _now()}}) | {
                "ready": True,
                "started": True,
            }
            status = {"phase": "Running", "containerStatuses": [running]}
            self._set_ready(status, ready=True)
        self._patch_status(
            pod,
            status | {"podIP": self._pod_ip, "podIPs": [{"ip": self._pod_ip}], "startTime": _now()},
        )

    def _missing_secret(self, pod: Object) -> tuple[str, str] | None:
        """Volume and Secret that keep the pod from starting."""
        for volume in pod["spec"].get("volumes") or ():
            sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
            for source in (item.get("secret") or {} for item in sources):
                name = source.get("secretName") or source.get("name")
                if name and not source.get("optional"):
                    found = self._http.get(
                        f"/api/v1/namespaces/{pod['metadata']['namespace']}/secrets/{name}"
                    )
                    if found.status_code == httpx.codes.NOT_FOUND:
                        return str(volume["name"]), str(name)
        return None

    def _record_failed_mount(self, pod: Object, missing: tuple[str, str]) -> None:
        namespace = pod["metadata"]["namespace"]
        event = {
            "metadata": {"generateName": "fake-", "namespace": namespace},
            "involvedObject": {"kind": "Pod", "namespace": namespace, "name": pod["metadata"]["name"],
                               "uid": pod["metadata"]["uid"]},
            "type": "Warning", "reason": "FailedMount", "reportingComponent": "kubelet", "reportingInstance": NODE,
            "message": f'MountVolume.SetUp failed for volume "{missing[0]}" : secret "{missing[1]}" not found',
        }  # fmt: skip
        self._http.post(f"/api/v1/namespaces/{namespace}/events", json=event).raise_for_status()

    def _status(self, pod: Object) -> Object:
        status: Object = self._http.get(_path(pod)).raise_for_status().json()["status"]
        return status

    def _set_ready(self, status: Object, *, ready: bool) -> None:
        others = [
            item
            for item in status.get("conditions") or ()
            if item["type"] not in ("Ready", "ContainersReady")
        ]
        value = "True" if ready else "False"
        status["conditions"] = others + [
            {"type": kind, "status": value, "lastTransitionTime": _now()}
            for kind in ("ContainersReady", "Ready")
        ]

    def _patch_status(self, pod: Object, status: Mapping[str, Any]) -> None:
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        answer = self._http.request("PATCH", f"{_path(pod)}/status", json=body, headers=headers)
        if answer.status_code not in (
            httpx.codes.NOT_FOUND,
            httpx.codes.CONFLICT,
        ):  # gone meanwhile
            answer.raise_for_status()


def _container(container: Object, state: Object) -> Object:
    return {
        "name": container["name"], "image": container["image"], "imageID": "", "ready": False, "started": False,
        "restartCount": 0, "state": state, "lastState": {},
    }  # fmt: skip


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _client(kubeconfig: Path) -> httpx.Client:
    """A client with the certificate of a kubeconfig."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(
        cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
    )
    with tempfile.NamedTemporaryFile() as pair:  # the ssl module takes certificates from files only
        pair.write(
            base64.b64decode(user["client-certificate-data"])
            + b"\n"
            + base64.b64decode(user["client-key-data"])
        )
        pair.flush()
        context.load_cert_chain(pair.name)
    return httpx.Client(base_url=cluster["server"], verify=context, timeout=10, trust_env=False)
