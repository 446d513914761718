"""What is done to the children by hand is undone at once, and an idle operator writes nothing but its Lease."""

from tests.e2e.idle import idle_task_services, is_lease, writes_of_the_operator
from tests.e2e.installation import Installation
from tests.e2e.stage import Stage
from tests.support.kube import poll

WITHIN_SECONDS = 2.0
IDLE_SECONDS = 60


def test_edited_and_deleted_children_come_back(demo: Installation) -> None:
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

    def repaired() -> bool:
        after = kube.get("deployment", "demo-worker")["spec"]
        selector = kube.get("service", "demo-api")["spec"]["selector"][
            "app.kubernetes.io/component"
        ]
        budget, trust = (
            kube.find("poddisruptionbudget", "demo-worker"),
            kube.find("configmap", "demo-trust"),
        )
        return after == before and selector == "api" and bool(budget and trust)

    poll("everything is as it was", repaired, WITHIN_SECONDS)
    kube.delete("deployment", "demo-worker")
    poll("the Deployment is back", lambda: kube.find("deployment", "demo-worker"), WITHIN_SECONDS)


def test_idle_with_twenty_task_services_writes_nothing_but_the_lease(
    stage: Stage, demo: Installation
) -> None:
    demo.until_ready()
    demo.until_idle()
    with idle_task_services(stage):
        writes = writes_of_the_operator(stage, IDLE_SECONDS)
    assert [line for line in writes if not is_lease(line)] == []
