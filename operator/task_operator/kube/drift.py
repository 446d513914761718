"""Drift detection: pure functions that compare an object with the manifest that was applied.

They read managedFields, which every watch event contains. A field that we applied stays in our
entry of managedFields until another client changes its value or removes it. If every field of the
manifest is in our entry, nobody has changed our fields. Defaults of the API server and fields of
other managers do not matter, and the comparison needs no request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from task_operator.kube.kinds import MANAGER, Manifest

# Fields that identify an object. managedFields never lists them.
IDENTITY = frozenset({"apiVersion", "kind"})
METADATA_IDENTITY = frozenset({"name", "namespace"})


def owned_fields(live: Manifest, manager: str = MANAGER) -> dict[str, Any]:
    """Return the fieldsV1 tree of what the manager applied; empty if it applied nothing."""
    for entry in live["metadata"].get("managedFields") or ():
        if (
            entry.get("manager") == manager
            and entry.get("operation") == "Apply"
            and not entry.get("subresource")
        ):
            return dict(entry.get("fieldsV1") or {})
    return {}


def lost_fields(manifest: Manifest, live: Manifest) -> frozenset[str]:
    """Return the paths of the manifest that the operator does not own in the live object."""
    body = {name: value for name, value in manifest.items() if name not in IDENTITY}
    body["metadata"] = {
        name: value for name, value in manifest["metadata"].items() if name not in METADATA_IDENTITY
    }
    return frozenset(_lost(body, owned_fields(live), ""))


def _lost(node: Any, fields: dict[str, Any], path: str) -> Iterator[str]:
    """Compare a manifest with fieldsV1; an empty tree means that we own the whole field."""
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
            below = _fields_of_item(item, keyed)
            if below is None:
                yield f"{path}[{_title(item)}]"
            else:
                yield from _lost(item, below, f"{path}[{_title(item)}]")
        return
    values = {name[2:] for name in fields if name.startswith("v:")}
    if values:
        known = {json.dumps(json.loads(value), sort_keys=True) for value in values}
        yield from (
            f"{path}[{item}]" for item in items if json.dumps(item, sort_keys=True) not in known
        )
    elif items:
        yield path


def _fields_of_item(
    item: Manifest, keyed: list[tuple[Manifest, dict[str, Any]]]
) -> dict[str, Any] | None:
    """Find the fields of a list item; a key that it omits has the API server's default."""
    for keys, below in keyed:
        if all(item.get(key, value) == value for key, value in keys.items()):
            return below
    return None


def _leaves(value: Any, path: str) -> Iterator[str]:
    """Yield the path of a missing field once; an empty value is never missing."""
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
