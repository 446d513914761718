"""kopf handlers that put watch events into the cache and keys onto the work queues.

All of them are `on.event` handlers. These persist nothing, so kopf adds no annotation, finalizer
or timer to the objects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import kopf

from task_operator.kube.kinds import (
    CHILD_SELECTOR,
    KINDS,
    POD,
    POD_SELECTOR,
    TASK_SERVICE,
    Key,
    Kind,
    Manifest,
)
from task_operator.kube.object_cache import ObjectCache
from task_operator.kube.objects import (
    component,
    controller,
    dig,
    instance_key,
    is_ready_pod,
    name_of,
    namespace_of,
)
from task_operator.rescue.judge import may_have_died


@dataclass(frozen=True)
class Callbacks:
    """Functions that the handlers call."""

    reconcile: Callable[[Key, bool], None]
    """Request a reconcile pass; True if the TaskService itself was changed."""
    rescue: Callable[[Key], None]
    """Request an immediate check of the worker instances."""
    login: Callable[[], Awaitable[kopf.ConnectionInfo]]
    """Return the credentials of the watches."""


def kopf_settings(namespaces: bool) -> kopf.OperatorSettings:
    """Configure kopf: no peering, no scanning, no events, and only the objects we need."""
    configured = kopf.OperatorSettings()
    configured.scanning.disabled = True
    configured.posting.enabled = False
    configured.peering.standalone = True
    configured.peering.clusterwide = not namespaces
    for kind in KINDS:
        configured.watching.label_selectors[kind.group, kind.plural] = CHILD_SELECTOR
    configured.watching.label_selectors[POD.group, POD.plural] = POD_SELECTOR
    return configured


def register(registry: kopf.OperatorRegistry, cache: ObjectCache, callbacks: Callbacks) -> None:
    """Register one handler per watched kind."""

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await callbacks.login()

    _watch(registry, TASK_SERVICE, partial(on_task_service, cache, callbacks))
    _watch(registry, POD, partial(on_pod, cache, callbacks))
    for kind in KINDS:
        _watch(registry, kind, partial(on_child, cache, callbacks, kind))


def _watch(
    registry: kopf.OperatorRegistry, kind: Kind, handle: Callable[[bool, Manifest], None]
) -> None:
    version = kind.api_version.rpartition("/")[2]

    @kopf.on.event(kind.group, version, kind.plural, registry=registry, id=kind.plural)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        obj: Manifest = {"apiVersion": kind.api_version, "kind": kind.kind} | dict(event["object"])
        handle(event["type"] == "DELETED", obj)


def on_task_service(cache: ObjectCache, callbacks: Callbacks, deleted: bool, obj: Manifest) -> None:
    """Handle a changed TaskService; a change of its status alone needs no pass."""
    key = (namespace_of(obj), name_of(obj))
    known = cache.task_service(key)
    if deleted:
        cache.remove(TASK_SERVICE, obj)
    elif not cache.put(TASK_SERVICE, obj):
        return
    urgent = known is None or _desired_state(known) != _desired_state(obj)
    if deleted or urgent:
        callbacks.reconcile(key, urgent)


def on_pod(cache: ObjectCache, callbacks: Callbacks, deleted: bool, pod: Manifest) -> None:
    """Handle a changed pod: first the rescue, because tasks are waiting, then the status."""
    known = cache.get(POD, namespace_of(pod), name_of(pod))
    if deleted:
        cache.remove(POD, pod)
    elif not cache.put(POD, pod):
        return
    key = instance_key(pod)
    if cache.task_service(key) is None:
        return
    became_ready = is_ready_pod(pod) and not (known and is_ready_pod(known))
    if component(pod) in ("worker", "api") and (deleted or may_have_died(pod) or became_ready):
        callbacks.rescue(key)
    callbacks.reconcile(key, False)


def on_child(
    cache: ObjectCache, callbacks: Callbacks, kind: Kind, deleted: bool, obj: Manifest
) -> None:
    """Handle a changed child; the pass determines whether it has drifted."""
    if deleted:
        cache.remove(kind, obj)
    elif not cache.put(kind, obj):
        return
    owner = controller(obj)
    if owner and owner.get("kind") == TASK_SERVICE.kind:
        callbacks.reconcile((namespace_of(obj), str(owner["name"])), False)
    elif cache.task_service(instance_key(obj)) is not None:
        callbacks.reconcile(instance_key(obj), False)


def _desired_state(task_service: Manifest) -> Any:
    metadata = task_service["metadata"]
    return (
        metadata.get("uid"),
        task_service.get("spec"),
        dig(metadata, "annotations"),
        metadata.get("deletionTimestamp"),
    )
