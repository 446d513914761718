"""Cache of the watched objects; it may lag behind the API server."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from task_operator.kube.kinds import KINDS, POD, TASK_SERVICE, Key, Kind, Manifest
from task_operator.kube.objects import controller, instance_key, name_of, namespace_of, uid_of

MAX_DELETED_PODS = 2000


class ObjectCache:
    """Objects by kind, namespace and name.

    Its sources are watch events, full listings and the responses to the operator's own writes.
    """

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[Key, Manifest]] = {
            kind: {} for kind in (*KINDS, POD, TASK_SERVICE)
        }
        self._by_instance: dict[Kind, dict[Key, dict[str, Manifest]]] = {
            kind: defaultdict(dict) for kind in (*KINDS, POD)
        }
        self._deleted_pods: OrderedDict[str, Manifest] = OrderedDict()

    def put(self, kind: Kind, obj: Manifest) -> bool:
        """Store an object; return False if the cache has a newer version of it."""
        key = (namespace_of(obj), name_of(obj))
        known = self._objects[kind].get(key)
        if known and uid_of(known) == uid_of(obj) and _version(known) > _version(obj):
            return False
        if known:
            self._drop(kind, known)
        self._objects[kind][key] = obj
        if kind is not TASK_SERVICE:
            self._by_instance[kind][instance_key(obj)][key[1]] = obj
        return True

    def remove(self, kind: Kind, obj: Manifest) -> None:
        """Remove a deleted object.

        The last state of a pod is kept for a while, because it shows why the pod was deleted.
        """
        known = self._objects[kind].get((namespace_of(obj), name_of(obj)))
        if kind is POD:
            self._deleted_pods[uid_of(obj)] = obj
            if len(self._deleted_pods) > MAX_DELETED_PODS:
                self._deleted_pods.popitem(last=False)
        if known and uid_of(known) == uid_of(obj):
            self._drop(kind, known)

    def replace(
        self, kind: Kind, namespace: str | None, objects: Iterable[Manifest], version: int
    ) -> None:
        """Replace a kind by a full listing at a resource version, in one namespace or in all."""
        listed = {(namespace_of(obj), name_of(obj)): obj for obj in objects}
        missing = [
            obj
            for key, obj in list(self._objects[kind].items())
            if (namespace is None or key[0] == namespace)
            and key not in listed
            and _version(obj) <= version
        ]
        for obj in missing:
            self.remove(kind, obj)
        for obj in listed.values():
            self.put(kind, obj)

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return one object, if it is cached."""
        return self._objects[kind].get((namespace, name))

    def task_service(self, key: Key) -> Manifest | None:
        """Return one TaskService, if it is cached."""
        return self._objects[TASK_SERVICE].get(key)

    def task_services(self) -> list[Key]:
        """Return the keys of all TaskServices."""
        return list(self._objects[TASK_SERVICE])

    def of_instance(self, kind: Kind, key: Key) -> list[Manifest]:
        """Return the objects of one kind whose labels name the TaskService."""
        return list(self._by_instance[kind].get(key, {}).values())

    def owned(self, key: Key, uid: str) -> list[Manifest]:
        """Return the children of all kinds whose controller is the TaskService with that UID."""
        return [
            obj
            for kind in KINDS
            for obj in self.of_instance(kind, key)
            if (controller(obj) or {}).get("uid") == uid
        ]

    def deleted_pod(self, uid: str) -> Manifest | None:
        """Return the last state of a deleted pod, if it is still kept."""
        return self._deleted_pods.get(uid)

    def _drop(self, kind: Kind, obj: Manifest) -> None:
        self._objects[kind].pop((namespace_of(obj), name_of(obj)), None)
        if kind is not TASK_SERVICE:
            group = self._by_instance[kind].get(instance_key(obj), {})
            group.pop(name_of(obj), None)
            if not group:
                self._by_instance[kind].pop(instance_key(obj), None)


def _version(obj: Manifest) -> int:
    """Return the resource version; they are decimal and comparable since Kubernetes 1.35."""
    text = str(obj["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
