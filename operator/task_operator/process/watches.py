"""Thin: watch events to the store and to keys on the work queues.

Only `on.event` handlers: they persist nothing, so kopf adds no annotation, no finalizer and no timer of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import kopf

from task_operator.kube.informer import Store
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
from task_operator.kube.objects import (
    component,
    controller,
    dig,
    instance_key,
    is_ready_pod,
    name_of,
    namespace_of,
)
from task_operator.rescue.judge import tells_of_an_end


@dataclass
class Wakers:
    """Where events lead."""

    reconcile: Callable[[Key, bool], None]
    """Ask for a pass; True when a person changed the TaskService."""
    rescue: Callable[[Key], None]
    """Ask for a look at the instances at once."""
    login: Callable[[], Awaitable[kopf.ConnectionInfo]]


def settings(namespaces: bool) -> kopf.OperatorSettings:
    """Settings of kopf: no peering, no scanning, no events of its own, and only objects that concern us."""
    configured = kopf.OperatorSettings()
    configured.scanning.disabled = True
    configured.posting.enabled = False
    configured.peering.standalone = True
    configured.peering.clusterwide = not namespaces
    for kind in KINDS:
        configured.watching.label_selectors[kind.group, kind.plural] = CHILD_SELECTOR
    configured.watching.label_selectors[POD.group, POD.plural] = POD_SELECTOR
    return configured


def register(registry: kopf.OperatorRegistry, store: Store, wakers: Wakers) -> None:
    """Register one handler per watched kind."""

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await wakers.login()

    _watch(registry, TASK_SERVICE, partial(on_task_service, store, wakers))
    _watch(registry, POD, partial(on_pod, store, wakers))
    for kind in KINDS:
        _watch(registry, kind, partial(on_child, store, wakers, kind))


def _watch(
    registry: kopf.OperatorRegistry, kind: Kind, handle: Callable[[bool, Manifest], None]
) -> None:
    version = kind.api_version.rpartition("/")[2]

    @kopf.on.event(kind.group, version, kind.plural, registry=registry, id=kind.plural)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        obj: Manifest = {"apiVersion": kind.api_version, "kind": kind.kind} | dict(event["object"])
        handle(event["type"] == "DELETED", obj)


def on_task_service(store: Store, wakers: Wakers, gone: bool, obj: Manifest) -> None:
    """A TaskService changed; its own status does not count as urgent."""
    key = (namespace_of(obj), name_of(obj))
    known = store.task_service(key)
    if gone:
        store.remove(TASK_SERVICE, obj)
    elif not store.put(TASK_SERVICE, obj):
        return
    urgent = known is None or _wish(known) != _wish(obj)
    if gone or urgent:
        wakers.reconcile(key, urgent)


def on_pod(store: Store, wakers: Wakers, gone: bool, pod: Manifest) -> None:
    """A pod changed: rescue first, as its tasks wait; then the status."""
    known = store.get(POD, namespace_of(pod), name_of(pod))
    if gone:
        store.remove(POD, pod)
    elif not store.put(POD, pod):
        return
    key = instance_key(pod)
    if store.task_service(key) is None:
        return
    became_ready = is_ready_pod(pod) and not (known and is_ready_pod(known))
    if component(pod) in ("worker", "api") and (gone or tells_of_an_end(pod) or became_ready):
        wakers.rescue(key)
    wakers.reconcile(key, False)


def on_child(store: Store, wakers: Wakers, kind: Kind, gone: bool, obj: Manifest) -> None:
    """A child changed, maybe by somebody's hand: the pass finds out."""
    if gone:
        store.remove(kind, obj)
    elif not store.put(kind, obj):
        return
    owner = controller(obj)
    if owner and owner.get("kind") == TASK_SERVICE.kind:
        wakers.reconcile((namespace_of(obj), str(owner["name"])), False)
    elif store.task_service(instance_key(obj)) is not None:
        wakers.reconcile(instance_key(obj), False)


def _wish(task_service: Manifest) -> Any:
    metadata = task_service["metadata"]
    return (
        metadata.get("uid"),
        task_service.get("spec"),
        dig(metadata, "annotations"),
        metadata.get("deletionTimestamp"),
    )
