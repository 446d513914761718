"""Rescue with real pod objects: what the operator tells the service, and that it tells nothing
about the living.
"""

from datetime import UTC, datetime, timedelta

from tests.support.kube import Kube, Object, poll
from tests.support.operator_environment import OperatorProcess, World
from tests.task_operator.test_apply import ready
from tests.task_operator.test_scaling_live import WORKERS, worker


def instances(world: World, kube: Kube) -> list[Object]:
    """Two worker pods, each with a registered process that started with its container."""
    pods = kube.list("pods", WORKERS)
    started = [
        pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] for pod in pods
    ]
    world.stand_in.workers[(kube.namespace, "demo")] = [
        worker(pod, 5, moment.replace("Z", ".250000Z"))
        for pod, moment in zip(pods, started, strict=True)
    ]
    return pods


def id_of(pod: Object) -> str:
    return f"id-of-{pod['metadata']['name']}"


def released(world: World, kube: Kube) -> set[str]:
    return {
        worker_id
        for key, worker_id, _ in world.stand_in.releases
        if key == (kube.namespace, "demo")
    }


def test_a_killed_container_is_released_as_a_crash_and_its_neighbour_is_not(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "killed")
    victim, neighbour = instances(world, kube)
    world.kubelet.end_container(victim, exit_code=137)
    assert world.stand_in.wait_for_release(("killed", "demo"), id_of(victim)) == "crash"
    kube.wait("taskservice/demo", "jsonpath={.status.lastRescue.tasks}=5")
    rescue = kube.get("taskservice", "demo")["status"]["lastRescue"]
    assert (rescue["pod"], rescue["reason"]) == (victim["metadata"]["name"], "crash")
    poll(
        "an event says so",
        lambda: (
            "TasksReleased" in kube.run("get", "events", "--output=jsonpath={.items[*].reason}")
        ),
    )
    assert id_of(neighbour) not in released(world, kube)


def test_a_container_killed_for_its_memory_is_released_as_oom(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "oom")
    victim, _ = instances(world, kube)
    world.kubelet.end_container(victim, exit_code=137, reason="OOMKilled")
    assert world.stand_in.wait_for_release(("oom", "demo"), id_of(victim)) == "oom"


def test_a_container_that_is_back_already_is_another_one(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "restarted")
    victim, _ = instances(world, kube)
    later = (datetime.now(UTC) + timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    world.stand_in.workers[("restarted", "demo")][0]["state"] = (
        "dead"  # the successor was first, and did not know why
    )
    world.kubelet.end_container(victim, exit_code=139)
    world.kubelet.restart_container(victim, later)
    assert world.stand_in.wait_for_release(("restarted", "demo"), id_of(victim)) == "crash"
    kube.wait("taskservice/demo", "jsonpath={.status.lastRescue.tasks}=5")
    rescue = kube.get("taskservice", "demo")["status"]["lastRescue"]
    assert (rescue["workerId"], rescue["reason"]) == (id_of(victim), "crash")


def test_a_deleted_pod_is_released_when_it_is_gone(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "deletedpod")
    victim, neighbour = instances(world, kube)
    kube.delete("pod", victim["metadata"]["name"], "--grace-period=0", "--force")
    assert world.stand_in.wait_for_release(("deletedpod", "demo"), id_of(victim)) == "deleted"
    assert id_of(neighbour) not in released(world, kube)


def test_rescue_goes_on_while_paused(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "pausedrescue")
    victim, _ = instances(world, kube)
    kube.patch("taskservice", "demo", {"spec": {"paused": True}})
    kube.wait("taskservice/demo", "condition=Paused")
    world.kubelet.end_container(victim, exit_code=1)
    assert world.stand_in.wait_for_release(("pausedrescue", "demo"), id_of(victim)) == "crash"


def test_what_was_missed_is_found_without_any_event(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "missed")
    pods = instances(world, kube)
    gone = worker(pods[0], 2, id="left-behind", pod_name="demo-worker-gone", pod_uid="0000")
    world.stand_in.workers[("missed", "demo")].append(gone)
    assert world.stand_in.wait_for_release(("missed", "demo"), "left-behind") == "deleted"
    assert released(world, kube) == {"left-behind"}


def test_tokens_are_made_for_one_task_service(world: World, operator: OperatorProcess) -> None:
    kube = ready(world, "token")
    instances(world, kube)
    mine = ["task-service/token/demo"]
    tokens = poll(
        "a token for it",
        lambda: [claims for claims in world.stand_in.tokens if claims["aud"] == mine],
    )
    assert {claims["sub"] for claims in tokens} == {
        "system:serviceaccount:task-operator:task-operator"
    }
