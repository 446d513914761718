"""What counts as drift, told from managedFields."""

from typing import Any

import pytest

from task_operator.kube.drift import lost_fields

Object = dict[str, Any]
MANIFEST: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "demo", "namespace": "team", "labels": {"a": "1"}, "annotations": {}},
    "spec": {
        "selector": {"app": "demo"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        "finalizers": ["x"],
        "flat": ["one", "two"],
    },
}
OWNED: Object = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {
        "f:selector": {},
        "f:ports": {
            'k:{"port":80,"protocol":"TCP"}': {
                ".": {},
                "f:name": {},
                "f:port": {},
                "f:targetPort": {},
            }
        },
        "f:finalizers": {'v:"x"': {}},
        "f:flat": {},
    },
}


def live(
    fields: Object, *, manager: str = "task-operator", operation: str = "Apply", **more: str
) -> Object:
    entry = {"manager": manager, "operation": operation, "fieldsV1": fields} | more
    return {"metadata": {"name": "demo", "managedFields": [entry]}}


def without(path: str) -> Object:
    """OWNED without one field."""

    def copy(node: Object, steps: list[str]) -> Object:
        if len(steps) == 1:
            return {name: value for name, value in node.items() if name != steps[0]}
        below = copy(node[steps[0]], steps[1:])
        return {
            name: below if name == steps[0] else value
            for name, value in node.items()
            if name != steps[0] or below
        }

    return copy(OWNED, path.split("/"))


def test_an_object_that_is_ours_in_every_field_has_no_drift() -> None:
    assert lost_fields(MANIFEST, live(OWNED)) == frozenset()


def test_foreign_fields_are_no_drift() -> None:
    fields = OWNED | {"f:status": {"f:anything": {}}}
    assert lost_fields(MANIFEST, live(fields)) == frozenset()


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("f:metadata/f:labels/f:a", ".metadata"),
        ("f:metadata/f:labels", ".metadata"),
        ("f:spec/f:selector", ".spec.selector"),
        ("f:spec/f:flat", ".spec.flat"),
        (
            'f:spec/f:ports/k:{"port":80,"protocol":"TCP"}/f:targetPort',
            ".spec.ports[http].targetPort",
        ),
    ],
)
def test_a_field_that_is_ours_no_more_is_drift(path: str, lost: str) -> None:
    assert lost_fields(MANIFEST, live(without(path))) == {lost}


def test_an_item_that_is_ours_no_more_is_drift() -> None:
    ports: Object = {'k:{"port":81,"protocol":"TCP"}': {}}
    fields = OWNED | {"f:spec": OWNED["f:spec"] | {"f:ports": ports, "f:finalizers": {'v:"y"': {}}}}
    assert lost_fields(MANIFEST, live(fields)) == {".spec.ports[http]", ".spec.finalizers[x]"}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"manager": "somebody"}, id="another manager"),
        pytest.param({"operation": "Update"}, id="an update"),
        pytest.param({"subresource": "status"}, id="a subresource"),
    ],
)
def test_only_what_our_manager_applied_is_ours(entry: dict[str, str]) -> None:
    assert lost_fields(MANIFEST, live(OWNED, **entry)) == {".metadata", ".spec"}
