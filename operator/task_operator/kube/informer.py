"""What the watches have told: the operator's memory of the cluster, never its truth."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from task_operator.kube.kinds import KINDS, POD, TASK_SERVICE, Key, Kind, Manifest
from task_operator.kube.objects import controller, instance_key, name_of, namespace_of, uid_of

REMEMBERED_PODS = 2000


class Store:
    """Objects by kind, namespace and name; fed by watch events, by our own writes and by full listings."""

    def __init__(self) -> None:
        self._objects: dict[Kind, dict[Key, Manifest]] = {
            kind: {} for kind in (*KINDS, POD, TASK_SERVICE)
        }
        self._by_instance: dict[Kind, dict[Key, dict[str, Manifest]]] = {
            kind: defaultdict(dict) for kind in (*KINDS, POD)
        }
        self._departed: OrderedDict[str, Manifest] = OrderedDict()

    def put(self, kind: Kind, obj: Manifest) -> bool:
        """Remember an object; False when something newer of the same object is known already."""
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
        """Forget an object; a deleted pod's last state is kept for a while, because it tells why it went."""
        known = self._objects[kind].get((namespace_of(obj), name_of(obj)))
        if kind is POD:
            self._departed[uid_of(obj)] = obj
            if len(self._departed) > REMEMBERED_PODS:
                self._departed.popitem(last=False)
        if known and uid_of(known) == uid_of(obj):
            self._drop(kind, known)

    def replace(
        self, kind: Kind, namespace: str | None, objects: Iterable[Manifest], version: int
    ) -> set[Key]:
        """Take a full listing of a kind (of one namespace, or of all) as it was at a resource version.

        Returns the TaskServices that lost an object which no watch event had taken away.
        """
        listed = {(namespace_of(obj), name_of(obj)): obj for obj in objects}
        lost = [
            obj
            for key, obj in list(self._objects[kind].items())
            if (namespace is None or key[0] == namespace)
            and key not in listed
            and _version(obj) <= version
        ]
        for obj in lost:
            self.remove(kind, obj)
        for obj in listed.values():
            self.put(kind, obj)
        if kind is TASK_SERVICE:
            return {(namespace_of(obj), name_of(obj)) for obj in lost}
        return {instance_key(obj) for obj in lost}

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """One object, if known."""
        return self._objects[kind].get((namespace, name))

    def task_service(self, key: Key) -> Manifest | None:
        """The TaskService, if known."""
        return self._objects[TASK_SERVICE].get(key)

    def task_services(self) -> list[Key]:
        """Every TaskService."""
        return list(self._objects[TASK_SERVICE])

    def of_instance(self, kind: Kind, key: Key) -> list[Manifest]:
        """Objects of one kind whose labels name the TaskService."""
        return list(self._by_instance[kind].get(key, {}).values())

    def owned(self, key: Key, uid: str) -> list[Manifest]:
        """Children of every kind whose controller is the TaskService with that UID."""
        return [
            obj
            for kind in KINDS
            for obj in self.of_instance(kind, key)
            if (controller(obj) or {}).get("uid") == uid
        ]

    def departed(self, uid: str) -> Manifest | None:
        """The last state of a pod that is gone."""
        return self._departed.get(uid)

    def _drop(self, kind: Kind, obj: Manifest) -> None:
        self._objects[kind].pop((namespace_of(obj), name_of(obj)), None)
        if kind is not TASK_SERVICE:
            group = self._by_instance[kind].get(instance_key(obj), {})
            group.pop(name_of(obj), None)
            if not group:
                self._by_instance[kind].pop(instance_key(obj), None)


def _version(obj: Manifest) -> int:
    """Resource versions are decimal and comparable (guaranteed since Kubernetes 1.35)."""
    text = str(obj["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
