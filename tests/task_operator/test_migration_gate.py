"""A new image migrates first; nothing else changes until that has succeeded."""

from collections.abc import Iterator

import pytest

from tests.support.kube import Kube, Object, poll
from tests.support.operator_environment import OperatorProcess, World, condition, task_service
from tests.task_operator.test_apply import ready

BAD = "localhost/task-service:3"
SAID = "revision 0003 cannot be applied: column x exists"


@pytest.fixture
def failing(world: World) -> Iterator[None]:
    """Version 3's migration fails."""
    world.kubelet.failing[BAD] = SAID
    yield
    world.kubelet.failing.clear()


def image(tag: str) -> Object:
    return {"repository": "localhost/task-service", "tag": tag}


def deployment_versions(kube: Kube) -> dict[str, str]:
    """Resource versions of the Deployments, by name."""
    return {
        item["metadata"]["name"]: item["metadata"]["resourceVersion"]
        for item in kube.list("deployments")
    }


def test_a_new_image_migrates_before_anything_else_changes(
    world: World, operator: OperatorProcess
) -> None:
    kube = ready(world, "upgrade")
    with kube.watch("deployments") as deployments, kube.watch("jobs") as jobs:
        kube.apply(task_service(image=image("2")))
        done = jobs.until(
            "the new Job succeeds",
            lambda event: _image(event.object) == "2" and _succeeded(event.object),
        )
        rolled = deployments.until(
            "a Deployment changes", lambda event: _image(event.object) == "2"
        )
    version = int(done.object["metadata"]["resourceVersion"])
    assert int(rolled.object["metadata"]["resourceVersion"]) > version, (
        "it changed before the migration had succeeded"
    )
    kube.wait("taskservice/demo", "condition=Ready")
    assert kube.get("taskservice", "demo")["status"]["version"] == "2"
    poll("only the Job of the present image is kept", lambda: len(kube.list("jobs")) == 1)


def _succeeded(job: Object) -> bool:
    return any(
        item["type"] == "Complete" and item["status"] == "True"
        for item in job["status"].get("conditions") or ()
    )


def _image(obj: Object) -> str:
    return str(obj["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]


def test_a_failed_migration_leaves_the_old_version_and_says_why(
    world: World, operator: OperatorProcess, failing: None
) -> None:
    kube = ready(world, "failed", migration={"backoffLimit": 0})
    before = deployment_versions(kube)
    kube.apply(
        task_service(image=image("3"), migration={"backoffLimit": 0}, worker={"replicas": 3})
    )
    kube.wait("taskservice/demo", "condition=Migrated=False")
    kube.wait(
        "taskservice/demo",
        "jsonpath={.status.conditions[?(@.type=='Migrated')].reason}=MigrationFailed",
    )
    live = kube.get("taskservice", "demo")
    assert SAID in condition(live, "Migrated")["message"]
    assert (condition(live, "Ready")["status"], condition(live, "Ready")["reason"]) == (
        "False",
        "MigrationFailed",
    )
    assert condition(live, "Degraded")["status"] == "True"
    assert live["status"]["image"] == "localhost/task-service:1"
    assert deployment_versions(kube) == before

    operator.wait_for(
        "migration_started", taskservice=["failed", "demo"], attempt=2
    )  # it is tried again
    kube.apply(task_service(migration={"backoffLimit": 0}))
    kube.wait("taskservice/demo", "condition=Ready")
    poll("the failed Job is pruned", lambda: [_image(job) for job in kube.list("jobs")] == ["1"])
    assert deployment_versions(kube).keys() == before.keys()


def test_a_failed_migration_that_works_later_goes_on_by_itself(
    world: World, operator: OperatorProcess, failing: None
) -> None:
    kube = world.namespace("retried")
    kube.apply(task_service(image=image("3"), migration={"backoffLimit": 0}))
    kube.wait(
        "taskservice/demo",
        "jsonpath={.status.conditions[?(@.type=='Ready')].reason}=MigrationFailed",
    )
    assert not kube.list("deployments"), "pods before the first migration"
    world.kubelet.failing.clear()
    kube.wait("taskservice/demo", "condition=Ready")
