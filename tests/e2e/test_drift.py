"""The operator reverts manual changes, and writes only its Lease when idle."""

from tests.support.e2e.environment import Environment
from tests.support.e2e.idle_services import idle_task_services, is_lease, writes_of_the_operator
from tests.support.e2e.installation import Installation
from tests.support.kube import poll

WITHIN_SECONDS = 2.0
IDLE_SECONDS = 60


def test_changed_and_deleted_objects_are_restored(demo: Installation) -> None:
    kube = demo.kube
    before = kube.get("deployment", "demo-worker")["spec"]
    kube.patch(
        "deployment", "demo-worker", {"spec": {"progressDeadlineSeconds": 77, "replicas": 1}}
    )
    kube.patch(
        "service", "demo-api", {"spec": {"selector": {"app.kubernetes.io/component": "wrong"}}}
    )
    kube.delete("poddisruptionbudget", "demo-worker")
    kube.delete("configmap", "demo-trust")

    def is_reverted() -> bool:
        after = kube.get("deployment", "demo-worker")["spec"]
        selector = kube.get("service", "demo-api")["spec"]["selector"][
            "app.kubernetes.io/component"
        ]
        budget, trust = (
            kube.find("poddisruptionbudget", "demo-worker"),
            kube.find("configmap", "demo-trust"),
        )
        return after == before and selector == "api" and bool(budget and trust)

    poll("the reverted changes", is_reverted, WITHIN_SECONDS)
    kube.delete("deployment", "demo-worker")
    poll("the new Deployment", lambda: kube.find("deployment", "demo-worker"), WITHIN_SECONDS)


def test_idle_operator_with_twenty_task_services_writes_only_its_lease(
    environment: Environment, demo: Installation
) -> None:
    demo.until_ready()
    demo.until_idle()
    with idle_task_services(environment):
        writes = writes_of_the_operator(environment, IDLE_SECONDS)
    assert [line for line in writes if not is_lease(line)] == []
