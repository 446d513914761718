"""Deletion of a TaskService removes all its objects, with and without the operator."""

from task_operator.kube.kinds import KINDS
from tests.support.e2e.environment import SECRET, Environment, small
from tests.support.e2e.installation import Installation
from tests.support.kube import poll

EVERYTHING = ",".join([kind.plural for kind in KINDS] + ["replicasets", "pods", "endpointslices"])
CREATED_BY_KUBERNETES = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
SECONDS = 90


def owned(installation: Installation) -> set[str]:
    """Return the objects in the namespace that belong to the TaskService."""
    found = {
        f"{item['kind']}/{item['metadata']['name']}" for item in installation.kube.list(EVERYTHING)
    }
    return found - CREATED_BY_KUBERNETES


def test_deletion_removes_all_objects_with_and_without_the_operator(
    environment: Environment,
) -> None:
    with_operator, without = (
        Installation.prepare(environment, f"deleted-{name}") for name in ("first", "second")
    )
    for installation in (with_operator, without):
        installation.apply(**small())
    for installation in (with_operator, without):
        installation.until_ready()
        assert {"Deployment/demo-api", "Deployment/demo-worker", "Service/demo-api"} <= owned(
            installation
        )
    with_operator.kube.delete("taskservice", "demo")
    with environment.operator_stopped():
        without.kube.delete("taskservice", "demo")
        poll("the deletion without the operator", lambda: not owned(without), SECONDS)
    poll("the deletion with the operator", lambda: not owned(with_operator), SECONDS)
    for installation in (with_operator, without):
        assert installation.kube.find("secret", SECRET), "the Secret belongs to the user"
        installation.kube.run("delete", "namespace", installation.kube.namespace, "--wait=false")
