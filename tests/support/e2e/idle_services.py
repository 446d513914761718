"""Twenty idle TaskServices, whose pods a fake kubelet reports as running."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.audit import AuditLog, describe
from tests.support.e2e.environment import OPERATOR_USER, Environment, secret, task_service
from tests.support.fake_kubelet import NODE, FakeKubelet
from tests.support.fake_management_port import FakeManagementPort
from tests.support.kube import poll

COUNT = 20
RENEWAL_SECONDS = 2
"""Interval in which the leader renews its Lease."""
MANAGEMENT_PORT = 8081
POD = {"replicas": 1, "nodeSelector": {"fake": "node"}, "tolerations": [{"operator": "Exists"}]}


@contextmanager
def idle_task_services(environment: Environment) -> Iterator[None]:
    """Run twenty TaskServices that are Ready and idle."""
    cluster = environment.own_cluster
    host = cluster.network.host_ip
    try:
        with (
            FakeManagementPort(host, MANAGEMENT_PORT),
            FakeKubelet(cluster.kubeconfig, host) as kubelet,
        ):
            environment.kube.run("taint", "node", NODE, "fake=true:NoSchedule", "--overwrite")
            environment.kube.run("label", "node", NODE, "fake=node", "--overwrite")
            kube = environment.namespace("idle")
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
                poll("the end of their pods", lambda: not kube.list("pods"), 60)
    finally:  # the kubelet would report the node again
        environment.kube.run("delete", "node", NODE)
        environment.kube.run("delete", "namespace", "idle", "--wait=false")
    assert not kubelet.errors, kubelet.errors


def writes_of_the_operator(environment: Environment, seconds: float) -> list[str]:
    """Return all writes of the operator while it renews its Lease for this long, one per line."""
    audit = AuditLog(environment.own_cluster.audit_log)
    start = audit.mark()

    def writes() -> list[str]:
        return describe(audit.since(start, OPERATOR_USER))

    def is_over() -> bool:
        return sum(is_lease(line) for line in writes()) >= seconds / RENEWAL_SECONDS

    poll(f"renewals of the Lease for {seconds:g} s", is_over, 2 * seconds)
    return writes()


def is_lease(line: str) -> bool:
    return " leases " in line
