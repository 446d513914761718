"""A deleted TaskService leaves nothing behind, whether or not there is an operator."""

from task_operator.kube.kinds import KINDS
from tests.e2e.installation import Installation
from tests.e2e.stage import SECRET, Stage, small
from tests.support.kube import poll

EVERYTHING = ",".join([kind.plural for kind in KINDS] + ["replicasets", "pods", "endpointslices"])
MADE_BY_KUBERNETES = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
SECONDS = 90


def owned(installation: Installation) -> set[str]:
    """What is in the namespace, apart from the Secret that a person made."""
    found = {
        f"{item['kind']}/{item['metadata']['name']}" for item in installation.kube.list(EVERYTHING)
    }
    return found - MADE_BY_KUBERNETES


def test_a_deleted_task_service_leaves_nothing_behind_also_without_the_operator(
    stage: Stage,
) -> None:
    with_operator, without = (
        Installation.prepare(stage, f"deleted-{place}") for place in ("first", "second")
    )
    for installation in (with_operator, without):
        installation.apply(**small())
    for installation in (with_operator, without):
        installation.until_ready()
        assert {"Deployment/demo-api", "Deployment/demo-worker", "Service/demo-api"} <= owned(
            installation
        )
    with_operator.kube.delete("taskservice", "demo")
    with stage.operator_stopped():
        without.kube.delete("taskservice", "demo")
        poll("everything is gone without the operator", lambda: not owned(without), SECONDS)
    poll("everything is gone", lambda: not owned(with_operator), SECONDS)
    for installation in (with_operator, without):
        assert installation.kube.find("secret", SECRET), "it is not the operator's"
        installation.kube.run("delete", "namespace", installation.kube.namespace, "--wait=false")
