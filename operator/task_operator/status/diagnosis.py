"""Diagnose why pods do not run, with a message that names the remedy.

Pure functions of the states of pods and of their events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from task_operator.kube.kinds import Manifest
from task_operator.kube.objects import condition, container_statuses, dig, is_deleting, name_of

IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
MISSING = re.compile(r'(secret|configmap) "(?P<name>[^"]+)" not found', re.IGNORECASE)
MISSING_KEY = re.compile(
    r"couldn't find key (?P<key>\S+) in (?P<kind>Secret|ConfigMap) (?:[^/\s]+/)?(?P<name>\S+)"
)
MOUNT_KEY = re.compile(
    r'for volume "(?P<volume>[^"]+)"\s*: '
    r"references non-existent (?P<kind>secret|config) key: (?P<key>\S+)"
)


@dataclass(frozen=True)
class Problem:
    """The reason and the message of a condition."""

    reason: str
    message: str


def diagnose(
    pods: Iterable[Manifest], events: Mapping[str, list[Manifest]], spec: Manifest
) -> Problem | None:
    """Return the most urgent problem that needs an intervention.

    `events` contains the events of stuck pods, by pod name.
    """
    problems = [
        problem for pod in pods if not is_deleting(pod) for problem in _of_pod(pod, events, spec)
    ]
    return min(problems, key=_urgency, default=None)


def is_stuck(pod: Manifest) -> bool:
    """Return True if a pod has a node, but no container yet: its events may contain the cause."""
    if (
        is_deleting(pod)
        or dig(pod, "status", "phase") != "Pending"
        or not dig(pod, "spec", "nodeName")
    ):
        return False
    reasons = [dig(status, "state", "waiting", "reason") for status in container_statuses(pod)]
    return not reasons or any(
        reason in ("ContainerCreating", "PodInitializing", None) for reason in reasons
    )


def _urgency(problem: Problem) -> int:
    order = (
        "SecretNotFound",
        "ConfigMapNotFound",
        "ImagePullFailed",
        "ContainerConfigError",
        "CrashLoop",
        "Unschedulable",
    )
    return order.index(problem.reason)


def _of_pod(
    pod: Manifest, events: Mapping[str, list[Manifest]], spec: Manifest
) -> Iterator[Problem]:
    for status in container_statuses(pod):
        waiting = dig(status, "state", "waiting") or {}
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        where = f"container {status['name']} of pod {name_of(pod)}"
        if reason == "CreateContainerConfigError":
            yield _missing(message, pod, spec) or Problem(
                "ContainerConfigError", f"{where}: {message}"
            )
        elif reason in IMAGE_REASONS:
            yield Problem(
                "ImagePullFailed",
                f"{where}: image {status.get('image', '')} cannot be pulled: {message or reason}",
            )
        elif reason == "CrashLoopBackOff":
            last = dig(status, "lastState", "terminated") or {}
            error = str(last.get("message") or last.get("reason") or "no message").strip()
            yield Problem(
                "CrashLoop", f"{where} keeps exiting with code {last.get('exitCode')}: {error}"
            )
    scheduled = condition(pod, "PodScheduled")
    if (
        scheduled
        and scheduled.get("status") == "False"
        and scheduled.get("reason") == "Unschedulable"
    ):
        yield Problem("Unschedulable", f"pod {name_of(pod)}: {scheduled.get('message', '')}")
    for event in events.get(name_of(pod), ()):
        if event.get("reason") == "FailedMount" and (
            problem := _missing(str(event.get("message", "")), pod, spec)
        ):
            yield problem


def _missing(message: str, pod: Manifest, spec: Manifest) -> Problem | None:
    """Return the problem of a missing Secret, ConfigMap or key that a message reports."""
    if match := MISSING_KEY.search(message):
        return _not_found(match["kind"], match["name"], match["key"], spec, key_only=True)
    if match := MOUNT_KEY.search(message):
        kind = "Secret" if match["kind"] == "secret" else "ConfigMap"
        source = _volume_source(pod, match["volume"])
        return _not_found(kind, source, match["key"], spec, key_only=True)
    if match := MISSING.search(message):
        return _not_found(match[1], match["name"], "", spec, key_only=False)
    return None


def _not_found(kind: str, name: str, key: str, spec: Manifest, *, key_only: bool) -> Problem:
    title = "Secret" if kind.lower() == "secret" else "ConfigMap"
    path, expected_key = next(references(spec, name), ("", ""))
    key = key or expected_key
    source = f", named in spec.{path}," if path else ""
    if key_only:
        return Problem(f"{title}NotFound", f"{title} {name}{source} has no key {key}: add it")
    with_key = f" with the key {key}" if key else ""
    message = f"{title} {name}{source} does not exist: create it{with_key}"
    return Problem(f"{title}NotFound", message)


def references(node: Any, name: str, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the key of every reference to a Secret or ConfigMap in a spec.

    A secretRef without a key means the default key.

    >>> list(references({"database": {"secretRef": {"name": "db"}}}, "db"))
    [('database.secretRef', 'url')]
    >>> list(references({"auth": {"secretRef": {"name": "tokens"}}}, "tokens"))
    [('auth.secretRef', 'secret-key')]
    """
    if isinstance(node, dict):
        if node.get("name") == name and ("key" in node or path.endswith("secretRef")):
            default_key = dig(node, "keys", "secretKey") or (
                "secret-key" if path == "auth.secretRef" else "url"
            )
            yield path, str(node.get("key", default_key))
        for field, value in node.items():
            yield from references(value, name, f"{path}.{field}" if path else field)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from references(value, name, f"{path}[{place}]")


def _volume_source(pod: Manifest, volume: str) -> str:
    for item in dig(pod, "spec", "volumes") or ():
        if item.get("name") == volume:
            sources = [item, *(dig(item, "projected", "sources") or ())]
            for source in sources:
                secret, config = dig(source, "secret") or {}, dig(source, "configMap") or {}
                if name := secret.get("secretName") or secret.get("name") or config.get("name"):
                    return str(name)
    return volume
