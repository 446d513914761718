"""Replicas follow the spec and `kubectl scale`; fewer workers means the emptiest go, drained."""

import json

from tests.support.kube import Kube, Object, poll
from tests.support.operator_environment import OperatorProcess, World, condition, task_service
from tests.task_operator.test_apply import ready

WORKERS = "app.kubernetes.io/component=worker"
COST = "controller.kubernetes.io/pod-deletion-cost"


def worker(
    pod: Object, running: int, started: str = "2026-01-01T00:00:00.500000Z", **more: object
) -> Object:
    """An instance as GET /internal/workers tells it, in that pod."""
    name = pod["metadata"]["name"]
    return {
        "id": f"id-of-{name}", "state": "active", "pod_name": name, "pod_uid": pod["metadata"]["uid"],
        "container": "worker", "process_started_at": started, "running": running,
    } | more  # fmt: skip


def replicas(kube: Kube, name: str = "demo-worker") -> int:
    return int(kube.get("deployment", name)["spec"]["replicas"])


def test_kubectl_scale_sets_the_workers_and_a_hand_on_the_deployment_does_not(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "scale")
    kube.run("scale", "taskservice/demo", "--replicas=4")
    poll("four workers", lambda: replicas(kube) == 4)
    kube.wait("taskservice/demo", "jsonpath={.status.worker.ready}=4")
    kube.run("scale", "deployment/demo-worker", "--replicas=7")
    poll("four workers again", lambda: replicas(kube) == 4)
    fields = json.loads(
        kube.run("get", "deployment", "demo-worker", "--output=json", "--show-managed-fields")
    )
    entries = fields["metadata"]["managedFields"]
    managers = {
        entry["manager"] for entry in entries if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    }
    assert "task-operator-scale" in managers
    assert "task-operator" not in managers


def test_the_emptiest_workers_are_drained_and_go(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "down", worker={"replicas": 3})
    pods = kube.list("pods", WORKERS)
    busy, busiest, idle = pods
    key = ("down", "demo")
    started = "2099-01-01T00:00:00.000000Z"  # later than any container's start: alive
    world.stand_in.workers[key] = [
        worker(busy, 3, started),
        worker(busiest, 9, started),
        worker(idle, 0, started),
    ]
    kube.run("scale", "taskservice/demo", "--replicas=1")
    world.stand_in.wait_for_drain(key, f"id-of-{idle['metadata']['name']}")
    world.stand_in.wait_for_drain(key, f"id-of-{busy['metadata']['name']}")
    poll(
        "the replicas are lowered though a retired worker is still busy",
        lambda: replicas(kube) == 1,
    )
    poll("one pod stays", lambda: len(kube.list("pods", WORKERS)) == 1)
    (left,) = kube.list("pods", WORKERS)
    assert left["metadata"]["name"] == busiest["metadata"]["name"]
    assert int(left["metadata"]["annotations"][COST]) == 9
    assert world.stand_in.wait_for_release(key, f"id-of-{busy['metadata']['name']}") == "scale_down"


def test_under_an_autoscaler_the_scale_is_ignored_and_the_status_says_so(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "auto")
    kube.apply(
        task_service(
            worker={
                "replicas": 2,
                "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 5},
            }
        )
    )
    kube.wait("taskservice/demo", "condition=ScaleIgnored")
    kube.run("scale", "deployment/demo-worker", "--replicas=5")  # as the autoscaler does it
    kube.run("scale", "taskservice/demo", "--replicas=3")
    kube.wait("taskservice/demo", "jsonpath={.status.worker.ready}=5")
    message = condition(kube.get("taskservice", "demo"), "ScaleIgnored")["message"]
    assert message == "spec.worker.replicas (3) is ignored: the autoscaler sets 1 to 5 workers"
    assert replicas(kube) == 5
    kube.apply(task_service(worker={"replicas": 2, "autoscaling": {"enabled": False}}))
    poll("the spec rules again", lambda: replicas(kube) == 2)
    poll(
        "the condition goes", lambda: not condition(kube.get("taskservice", "demo"), "ScaleIgnored")
    )
