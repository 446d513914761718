"""From `kubectl apply` to children, and back from whatever is done to them by hand."""

import json
from typing import Any

import httpx

from task_operator.kube import kinds
from tests.support.kube import Kube, Object, poll
from tests.support.operator_environment import (
    OperatorProcess,
    World,
    condition,
    metric,
    task_service,
)

WITHIN_SECONDS = 2.0
CHILDREN = "app.kubernetes.io/instance=demo,app.kubernetes.io/managed-by=task-operator"
KINDS = ",".join(kind.plural for kind in kinds.KINDS)


def ready(world: World, namespace: str, **spec: Any) -> Kube:
    """A namespace with a TaskService "demo" that is Ready."""
    kube = world.namespace(namespace)
    kube.apply(task_service(**spec))
    kube.wait("taskservice/demo", "condition=Ready")
    return kube


def children(kube: Kube) -> dict[str, Object]:
    """Children by kind and name."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": item for item in kube.list(KINDS, CHILDREN)
    }


def test_an_applied_task_service_becomes_ready_with_children_that_it_owns(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "apply")
    live = kube.get("taskservice", "demo")
    found = children(kube)
    assert {
        "Deployment/demo-api",
        "Deployment/demo-worker",
        "Service/demo-api",
        "ServiceAccount/demo",
    } <= set(found)
    for child in found.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (live["metadata"]["uid"], True)
    assert condition(live, "Migrated")["status"] == "True"
    assert live["status"]["image"] == "localhost/task-service:1"
    assert live["status"]["observedGeneration"] == live["metadata"]["generation"]
    selector = live["status"]["worker"]["selector"]
    assert len(kube.list("pods", selector)) == 2


def test_the_services_are_given_the_keys_that_check_the_operators_tokens(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "trust")
    (issuers,) = json.loads(next(iter(kube.get("configmap", "demo-trust")["data"].values())))[
        "issuers"
    ]
    assert issuers["audience"] == "task-service/trust/demo"
    assert issuers["subject"] == "system:serviceaccount:task-operator:task-operator"
    assert issuers["jwks"] == json.loads(kube.run("get", "--raw", "/openid/v1/jwks"))


def test_a_field_changed_by_hand_comes_back_and_a_foreign_one_stays(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "drift")
    before = metric(
        httpx.get(f"http://127.0.0.1:{operator.port}/metrics").text,
        "task_operator_drift_repaired_total",
    )
    kube.run("set", "image", "deployment/demo-api", "api=localhost/other:9")
    kube.patch(
        "deployment",
        "demo-api",
        {"metadata": {"annotations": {"mine": "stays"}, "labels": {"theirs": "too"}}},
    )
    kube.patch(
        "service", "demo-api", {"spec": {"selector": {"app.kubernetes.io/component": "wrong"}}}
    )

    def repaired() -> bool:
        template = kube.get("deployment", "demo-api")["spec"]["template"]["spec"]["containers"][0]
        selector = kube.get("service", "demo-api")["spec"]["selector"][
            "app.kubernetes.io/component"
        ]
        return (template["image"], selector) == ("localhost/task-service:1", "api")

    poll("the fields come back", repaired, WITHIN_SECONDS)
    metadata = kube.get("deployment", "demo-api")["metadata"]
    assert (metadata["annotations"]["mine"], metadata["labels"]["theirs"]) == ("stays", "too")
    text = httpx.get(f"http://127.0.0.1:{operator.port}/metrics").text
    assert metric(text, "task_operator_drift_repaired_total") >= before + 2


def test_deleted_and_unlabelled_children_come_back(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "deleted")
    old = kube.get("deployment", "demo-worker")["metadata"]["uid"]
    kube.delete("deployment", "demo-worker")
    kube.delete("service", "demo-api")
    kube.run(
        "label",
        "serviceaccount",
        "demo",
        "app.kubernetes.io/name-",
        "app.kubernetes.io/managed-by-",
    )

    def back() -> bool:
        worker, found = kube.find("deployment", "demo-worker"), children(kube)
        return bool(
            worker
            and worker["metadata"]["uid"] != old
            and {"Service/demo-api", "ServiceAccount/demo"} <= set(found)
        )

    poll("the children come back", back, WITHIN_SECONDS)
    kube.wait("taskservice/demo", "condition=Ready")
    assert kube.get("deployment", "demo-worker")["spec"]["replicas"] == 2


def test_what_is_rendered_no_more_is_pruned_and_nothing_else(
    world: World, operator: OperatorProcess
) -> None:
    autoscaling = {"enabled": True, "minReplicas": 1, "maxReplicas": 3}
    kube = ready(world, "prune", api={"autoscaling": autoscaling})
    config = next(name for name in children(kube) if name.startswith("ConfigMap/demo-config"))
    foreign = {"app.kubernetes.io/name": "task-service", "app.kubernetes.io/instance": "demo",
               "app.kubernetes.io/managed-by": "task-operator"}  # fmt: skip
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "foreign", "labels": foreign},
        }
    )
    kube.apply(task_service(api={"replicas": 1}, settings={"leaseSeconds": 30}))
    poll("the autoscaler goes", lambda: not kube.find("horizontalpodautoscaler", "demo-api"))
    poll("the old settings go after the rollout", lambda: config not in children(kube))
    kube.wait("taskservice/demo", "condition=Ready")
    assert kube.get("deployment", "demo-api")["spec"]["replicas"] == 1
    assert kube.find("configmap", "foreign"), "an object of somebody else was deleted"


def test_an_object_of_somebody_else_is_refused_and_left_alone(
    world: World, operator: OperatorProcess
) -> None:
    kube = world.namespace("refused")
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "demo", "annotations": {"a": "b"}},
        }
    )
    kube.apply(task_service())
    kube.wait(
        "taskservice/demo", "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=Refused"
    )
    message = condition(kube.get("taskservice", "demo"), "Ready")["message"]
    assert (
        message
        == "ServiceAccount demo exists and was not created by the operator: delete it, or choose another name"
    )
    assert "labels" not in kube.get("serviceaccount", "demo")["metadata"]


def test_a_paused_task_service_is_left_alone_until_it_goes_on(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "paused")
    kube.run("annotate", "taskservice", "demo", "taskservice.dev/paused=true")
    kube.wait("taskservice/demo", "condition=Paused")
    kube.delete("service", "demo-api")
    kube.patch("taskservice", "demo", {"spec": {"worker": {"replicas": 3}}})
    generation = kube.get("taskservice", "demo")["metadata"]["generation"]
    kube.wait("taskservice/demo", f"jsonpath={{.status.observedGeneration}}={generation}")
    assert kube.find("service", "demo-api") is None
    assert kube.get("deployment", "demo-worker")["spec"]["replicas"] == 2
    kube.run("annotate", "taskservice", "demo", "taskservice.dev/paused-")
    poll("the Service comes back", lambda: kube.find("service", "demo-api"))
    poll(
        "the workers follow", lambda: kube.get("deployment", "demo-worker")["spec"]["replicas"] == 3
    )


def test_a_missing_secret_is_named_and_its_appearance_heals(
    world: World, operator: OperatorProcess
) -> None:
    kube = world.namespace("secret")
    kube.apply(task_service(database={"secretRef": {"name": "absent", "key": "dsn"}}))
    kube.wait(
        "taskservice/demo",
        "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=SecretNotFound",
    )
    message = condition(kube.get("taskservice", "demo"), "Ready")["message"]
    assert (
        message
        == "Secret absent, named in spec.database.secretRef, does not exist: create it with the key dsn"
    )
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "absent"},
            "stringData": {"dsn": "x"},
        }
    )
    kube.wait("taskservice/demo", "condition=Ready")


def test_a_deleted_task_service_leaves_nothing(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "gone")
    assert children(kube)
    kube.delete("taskservice", "demo")
    poll("nothing is left", lambda: not children(kube) and not kube.list("pods"), 60)


def test_kubectl_shows_the_state_in_one_line(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "columns")
    header, line = (text.split() for text in kube.run("get", "ts").strip().splitlines())
    shown = dict(zip(header, line, strict=False))
    assert (shown["READY"], shown["REASON"], shown["API"], shown["WORKERS"]) == (
        "True",
        "Ready",
        "2",
        "2",
    )
