"""A node is cut off while its worker runs tasks: the other one runs them, and nothing happens twice."""

from tests.e2e.installation import Installation
from tests.e2e.losses import until_an_outage_is_all_that_changed
from tests.e2e.stage import CONCURRENCY, Stage
from tests.support.cluster import partitioned
from tests.support.kube import poll

SECONDS = 4


def pod_on(demo: Installation, node: str) -> str:
    (pod,) = (pod for pod in demo.worker_pods() if pod["spec"]["nodeName"] == node)
    return str(pod["metadata"]["name"])


def test_tasks_of_a_cut_off_node_are_run_elsewhere_once_and_the_node_works_again_when_it_is_back(
    stage: Stage, demo: Installation
) -> None:
    far = pod_on(demo, "node-2")
    ids = demo.create(
        2 * CONCURRENCY, "side_effect", {"seconds": SECONDS}
    )  # more than one worker has slots for
    lost = demo.until_running(ids)[far]
    with partitioned(stage.cluster, 2):
        attempts = demo.until_ended(ids)
    for task_id in lost:
        gone, again = attempts[task_id]
        assert (gone.outcome, gone.pod) == ("lost", far)
        assert again.claimed_at >= demo.lease_end(gone.worker_id)
        assert (again.outcome, again.pod != far) == ("completed", True)
    assert {runs[-1].outcome for runs in attempts.values()} == {"completed"}
    poll("the cut-off worker is back", lambda: far in demo.registered(), 60)
    until_an_outage_is_all_that_changed(demo, attempts)
    assert {phases.count("end") for phases in demo.effects(ids).values()} == {1}
    more = demo.create(6 * CONCURRENCY, "sleep", {"seconds": 1})  # rounds enough for both
    assert far in {runs[-1].pod for runs in demo.until_ended(more).values()}
