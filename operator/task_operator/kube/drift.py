"""Whether an object still holds what was applied: pure, from the managedFields that every watch event carries.

A field that we applied stays in our entry of managedFields until somebody else sets it to another value or removes it.
So "every field of the manifest is in our entry" means that nobody changed what is ours, whatever defaults the API
server added and whatever foreign fields there are, and it costs no request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from task_operator.kube.kinds import MANAGER, Manifest

# Identity of an object, never listed in managedFields.
IDENTITY = frozenset({"apiVersion", "kind"})
METADATA_IDENTITY = frozenset({"name", "namespace"})


def owned_fields(live: Manifest, manager: str = MANAGER) -> dict[str, Any]:
    """The fieldsV1 tree of what the manager applied; empty when it applied nothing."""
    for entry in live["metadata"].get("managedFields") or ():
        if (
            entry.get("manager") == manager
            and entry.get("operation") == "Apply"
            and not entry.get("subresource")
        ):
            return dict(entry.get("fieldsV1") or {})
    return {}


def lost_fields(manifest: Manifest, live: Manifest) -> frozenset[str]:
    """Paths of the manifest that are not ours in the live object."""
    body = {name: value for name, value in manifest.items() if name not in IDENTITY}
    body["metadata"] = {
        name: value for name, value in manifest["metadata"].items() if name not in METADATA_IDENTITY
    }
    return frozenset(_lost(body, owned_fields(live), ""))


def _lost(node: Any, fields: dict[str, Any], path: str) -> Iterator[str]:
    """Walk a manifest along fieldsV1; an empty tree below a field means that it is owned whole."""
    if isinstance(node, dict):
        for name, value in node.items():
            below = fields.get(f"f:{name}")
            if below is None:
                yield from _leaves(value, f"{path}.{name}")
            elif below:
                yield from _lost(value, below, f"{path}.{name}")
    elif isinstance(node, list):
        yield from _lost_items(node, fields, path)


def _lost_items(items: list[Any], fields: dict[str, Any], path: str) -> Iterator[str]:
    keyed = [
        (json.loads(name[2:]), below) for name, below in fields.items() if name.startswith("k:")
    ]
    if keyed:
        for item in items:
            # A key that the manifest leaves out has the API server's default (a port's protocol).
            found = [
                b
                for keys, b in keyed
                if all(item.get(key, value) == value for key, value in keys.items())
            ]
            if found:
                yield from _lost(item, found[0], f"{path}[{_title(item)}]")
            else:
                yield f"{path}[{_title(item)}]"
        return
    values = {name[2:] for name in fields if name.startswith("v:")}
    if values:
        known = {json.dumps(json.loads(value), sort_keys=True) for value in values}
        yield from (
            f"{path}[{item}]" for item in items if json.dumps(item, sort_keys=True) not in known
        )
    elif items:
        yield path


def _leaves(value: Any, path: str) -> Iterator[str]:
    """A missing field counts once; an empty value says nothing and is never missing."""
    if value not in ({}, [], None):
        yield path


def _title(item: Any) -> str:
    if isinstance(item, dict):
        return str(
            item.get("name")
            or item.get("uid")
            or item.get("key")
            or item.get("type")
            or next(iter(item.values()), "")
        )
    return str(item)
