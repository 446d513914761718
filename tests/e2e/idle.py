"""Twenty idle TaskServices, more than two cores can run: a fake kubelet keeps their pods, on a node of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.stage import OPERATOR_USER, Stage, secret, task_service
from tests.support.audit import AuditLog, describe
from tests.support.fake_kubelet import NODE, FakeKubelet
from tests.support.fake_management_port import FakeManagementPort
from tests.support.kube import poll

COUNT = 20
RENEWAL_SECONDS = 2
"""The leader renews its Lease so often."""
MANAGEMENT_PORT = 8081
POD = {"replicas": 1, "nodeSelector": {"fake": "node"}, "tolerations": [{"operator": "Exists"}]}


@contextmanager
def idle_task_services(stage: Stage) -> Iterator[None]:
    """Twenty TaskServices that are Ready and have nothing to do."""
    host = stage.cluster.network.host_ip
    try:
        with (
            FakeManagementPort(host, MANAGEMENT_PORT),
            FakeKubelet(stage.cluster.kubeconfig, host) as kubelet,
        ):
            stage.kube.run("taint", "node", NODE, "fake=true:NoSchedule", "--overwrite")
            stage.kube.run("label", "node", NODE, "fake=node", "--overwrite")
            kube = stage.namespace("idle")
            kube.apply(secret("postgresql://nobody@nowhere/none"))
            try:
                kube.apply(
                    *(
                        task_service(f"idle-{number}", api=POD, worker=POD)
                        for number in range(COUNT)
                    )
                )
                kube.wait("taskservices --all", "condition=Ready", 120)
                kube.wait("taskservices --all", "jsonpath={.status.schemaRevision}=1", 120)
                yield
            finally:
                kube.run("delete", "taskservices", "--all", "--wait=false")
                poll("their pods are gone", lambda: not kube.list("pods"), 60)
    finally:  # the kubelet reports on the node as long as it lives
        stage.kube.run("delete", "node", NODE)
        stage.kube.run("delete", "namespace", "idle", "--wait=false")
    assert not kubelet.errors, kubelet.errors


def writes_of_the_operator(stage: Stage, seconds: float) -> list[str]:
    """All that the operator writes until it has renewed its Lease for so long; one line a write."""
    audit = AuditLog(stage.cluster.audit_log)
    begun = audit.mark()

    def writes() -> list[str]:
        return describe(audit.since(begun, OPERATOR_USER))

    def over() -> bool:
        return sum(is_lease(line) for line in writes()) >= seconds / RENEWAL_SECONDS

    poll(f"the Lease was renewed for {seconds:g} s", over, 2 * seconds)
    return writes()


def is_lease(line: str) -> bool:
    return " leases " in line
