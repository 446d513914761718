"""Network partition of a node: another worker runs its tasks, each with one effect."""

from tests.support.cluster import partitioned
from tests.support.e2e.environment import CONCURRENCY, Environment
from tests.support.e2e.installation import Installation
from tests.support.e2e.worker_loss import wait_for_outage_report
from tests.support.kube import poll

SECONDS = 4


def pod_on(demo: Installation, node: str) -> str:
    (pod,) = (pod for pod in demo.worker_pods() if pod["spec"]["nodeName"] == node)
    return str(pod["metadata"]["name"])


def test_tasks_of_a_partitioned_node_run_once_elsewhere_until_it_returns(
    environment: Environment, demo: Installation
) -> None:
    cluster = environment.own_cluster
    far = pod_on(demo, "node-2")
    ids = demo.create(2 * CONCURRENCY, "side_effect", {"seconds": SECONDS})  # for both workers
    lost = demo.until_running(ids)[far]
    with partitioned(cluster, 2):
        attempts = demo.until_ended(ids)
    for task_id in lost:
        lost_attempt, retry = attempts[task_id]
        assert (lost_attempt.outcome, lost_attempt.pod) == ("lost", far)
        assert retry.claimed_at >= demo.lease_end(lost_attempt.worker_id)
        assert (retry.outcome, retry.pod != far) == ("completed", True)
    assert {runs[-1].outcome for runs in attempts.values()} == {"completed"}
    poll("the return of the worker", lambda: far in demo.registered(), 60)
    wait_for_outage_report(demo, attempts)
    assert {phases.count("end") for phases in demo.effects(ids).values()} == {1}
    more = demo.create(6 * CONCURRENCY, "sleep", {"seconds": 1})  # enough for both workers
    assert far in {runs[-1].pod for runs in demo.until_ended(more).values()}
