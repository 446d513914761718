"""Two replicas, one active; and what happens without any."""

import signal
import time
from pathlib import Path

import httpx

from tests.support.audit import AuditLog, describe
from tests.support.kube import poll
from tests.support.operator_environment import (
    OPERATOR_NAMESPACE,
    USER,
    World,
    install_rights,
    metric,
    operator_kubeconfig,
    task_service,
)
from tests.task_operator.test_apply import children

LEASE_SECONDS = 10
TIMERS = {"survey_seconds": 1, "figures_seconds": 1, "trust_seconds": 2, "resync_seconds": 3}


def leads(port: int) -> bool:
    return metric(httpx.get(f"http://127.0.0.1:{port}/metrics").text, "task_operator_leader") == 1


def test_a_standby_is_ready_and_takes_over_at_once_when_the_leader_leaves(world: World) -> None:
    first = world.start_operator(pod_name="first")
    first.wait_for("signing_keys")
    second = world.start_operator(pod_name="second")
    try:
        assert httpx.get(f"http://127.0.0.1:{second.port}/readyz").status_code == 200
        assert (leads(first.port), leads(second.port)) == (True, False)
        left = time.monotonic()
        assert first.stop() == 0
        second.wait_for("leader", seconds=LEASE_SECONDS / 2)
        assert time.monotonic() - left < LEASE_SECONDS, "the Lease was not released"
        kube = world.namespace("handover")
        kube.apply(task_service())
        kube.wait("taskservice/demo", "condition=Ready")
    finally:
        assert second.stop() == 0
    lease = world.kube.of(OPERATOR_NAMESPACE).get("lease", "task-operator")
    assert not lease["spec"].get("holderIdentity")


def test_a_standby_takes_over_from_a_leader_that_was_killed(world: World) -> None:
    first = world.start_operator(pod_name="first")
    first.wait_for("signing_keys")
    second = world.start_operator(pod_name="second")
    try:
        first.stop(signal.SIGKILL)
        second.wait_for("leader", seconds=LEASE_SECONDS + 10)
    finally:
        assert second.stop() == 0


def test_a_leader_that_loses_its_lease_ends(world: World) -> None:
    kube = world.kube.of(OPERATOR_NAMESPACE)
    leader = world.start_operator(pod_name="loser")
    leader.wait_for("signing_keys")
    try:
        kube.patch(
            "lease",
            "task-operator",
            {"spec": {"holderIdentity": "somebody else", "leaseDurationSeconds": 3600}},
        )
        assert leader.wait(LEASE_SECONDS) == 1
        assert kube.get("lease", "task-operator")["spec"]["holderIdentity"] == "somebody else"
    finally:
        leader.stop(signal.SIGKILL)
        kube.delete("lease", "task-operator")


def test_idle_writes_nothing_but_the_lease(world: World) -> None:
    kube = world.namespace("idle")
    names = [f"idle-{number}" for number in range(5)]
    operator = world.start_operator(pod_name="idle", **TIMERS)
    try:
        kube.apply(*(task_service(name) for name in names))
        for name in names:
            kube.wait(f"taskservice/{name}", "condition=Ready")
            kube.wait(f"taskservice/{name}", "jsonpath={.status.schemaRevision}=1")
        audit = AuditLog(world.cluster.audit_log)
        settled = audit.mark()

        def renewals() -> int:
            return sum("leases" in line for line in describe(audit.since(settled, USER)))

        # Ten renewals are twenty seconds: every timer has run six times at least.
        poll("ten renewals", lambda: renewals() >= 10, 60)
        others = [line for line in describe(audit.since(settled, USER)) if "leases" not in line]
        assert others == []
    finally:
        assert operator.stop() == 0


def test_a_task_service_deleted_while_no_operator_runs_leaves_nothing(world: World) -> None:
    kube = world.namespace("stopped")
    operator = world.start_operator()
    try:
        kube.apply(task_service())
        kube.wait("taskservice/demo", "condition=Ready")
    finally:
        assert operator.stop() == 0
    kube.delete("taskservice", "demo")
    poll(
        "nothing is left",
        lambda: (
            not kube.find("taskservice", "demo") and not children(kube) and not kube.list("pods")
        ),
        60,
    )


def test_an_operator_for_one_namespace_needs_no_rights_in_any_other(
    world: World, tmp_path: Path
) -> None:
    mine, other = world.namespace("mine"), world.namespace("other")
    install_rights(
        world.kube, "narrow", "--set", "watchNamespaces={mine}", "--set", "crds.enabled=false"
    )
    kubeconfig = operator_kubeconfig(world.kube, tmp_path / "kubeconfig", "narrow")
    rights = {"KUBECONFIG": str(kubeconfig), "SERVICE_ACCOUNT": "narrow", "LEASE_NAME": "narrow"}
    operator = world.start_operator(watch_namespaces="mine", **rights)
    try:
        other.apply(task_service())
        mine.apply(task_service())
        mine.wait("taskservice/demo", "condition=Ready")
        mine.wait("taskservice/demo", "jsonpath={.status.schemaRevision}=1")
        assert "status" not in other.get("taskservice", "demo")
    finally:
        assert operator.stop() == 0
