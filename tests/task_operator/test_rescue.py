"""Who is gone, and why: the decision, case by case."""

from datetime import UTC, datetime
from typing import Any

import pytest

from task_operator.management.service_client import Instance
from task_operator.rescue.judge import Retirement, judge, may_have_died, newest_template
from tests.support.kube_objects import POD_UID, pod, running, terminated

STARTED = datetime(2026, 1, 1, 12, 0, 10, 900_000, UTC)
INSTANCE = Instance("w1", "active", "demo-worker-1", POD_UID, "worker", STARTED, running=3)
DELETING = {"deletionTimestamp": "2026-01-01T12:01:00Z"}
DISRUPTED = {"type": "DisruptionTarget", "status": "True"}
Object = dict[str, Any]


@pytest.mark.parametrize(
    "alive",
    [
        pytest.param(
            pod(running("2026-01-01T12:00:10Z")),
            id="its container started in the second of its own start",
        ),
        pytest.param(pod(running("2026-01-01T12:00:09Z")), id="its container started before it"),
        pytest.param(
            pod(running("2026-01-01T12:00:09Z"), metadata=DELETING),
            id="its pod is being deleted, and it drains",
        ),
        pytest.param(pod(), id="the pod says nothing of containers"),
        pytest.param(
            pod(
                running("2026-01-01T12:00:09Z"),
                status={"conditions": [{"type": "Ready", "status": "False"}]},
            ),
            id="its node cannot be reached: the lease decides",
        ),
    ],
)
def test_an_instance_that_may_live_is_left_alone(alive: Object) -> None:
    assert judge(INSTANCE, alive, None, Retirement()) is None


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(pod({"state": {"terminated": terminated(137)}}), "crash", id="killed"),
        pytest.param(
            pod({"state": {"terminated": terminated(137, "OOMKilled")}}), "oom", id="out of memory"
        ),
        pytest.param(
            pod({"state": {"terminated": terminated(0, "Completed")}}),
            "unknown",
            id="ended by itself",
        ),
        pytest.param(
            pod({"state": {"terminated": terminated(137, "ContainerStatusUnknown")}}),
            "node",
            id="node restarted",
        ),
        pytest.param(
            pod(
                {
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": terminated(1)},
                }
            ),
            "crash",
            id="waits after a crash",
        ),
        pytest.param(
            pod(
                {
                    "state": {"waiting": {}},
                    "lastState": {"terminated": terminated(137, "OOMKilled")},
                }
            ),
            "oom",
            id="waits after running out of memory",
        ),
        pytest.param(
            pod({"state": {"waiting": {"reason": "ContainerCreating"}}}),
            "unknown",
            id="waits, nobody knows why",
        ),
        pytest.param(
            pod(running("2026-01-01T12:00:11Z") | {"lastState": {"terminated": terminated(139)}}),
            "crash",
            id="a later container runs",
        ),
        pytest.param(
            pod(
                running("2026-01-01T12:00:11Z")
                | {"lastState": {"terminated": terminated(137, "OOMKilled")}}
            ),
            "oom",
            id="a later container runs after the first ran out of memory",
        ),
        pytest.param(
            pod({"state": {"terminated": terminated(143)}}, metadata=DELETING),
            "deleted",
            id="ended because its pod is being deleted: no crash",
        ),
        pytest.param(
            pod({"state": {"terminated": terminated(137, "OOMKilled")}}, metadata=DELETING),
            "oom",
            id="out of memory while its pod was being deleted",
        ),
        pytest.param(
            pod(phase="Failed", status={"reason": "Evicted", "message": "low on memory"}),
            "eviction",
            id="evicted",
        ),
        pytest.param(
            pod(phase="Failed", status={"reason": "NodeShutdown"}), "node", id="its node shut down"
        ),
        pytest.param(
            pod({"state": {"terminated": terminated(1)}}, phase="Failed"),
            "crash",
            id="a pod that failed",
        ),
        pytest.param(
            pod(
                {"state": {"terminated": terminated(143)}},
                phase="Failed",
                status={"conditions": [DISRUPTED | {"reason": "PreemptionByScheduler"}]},
            ),
            "eviction",
            id="preempted",
        ),
    ],
)
def test_what_the_pod_says_gives_the_reason(seen: Object, reason: str) -> None:
    verdict = judge(INSTANCE, seen, None, Retirement())
    assert verdict is not None
    assert verdict.reason == reason


@pytest.mark.parametrize(
    ("departed", "retirement", "reason"),
    [
        pytest.param(None, Retirement(), "deleted", id="never seen"),
        pytest.param(pod(metadata=DELETING), Retirement(), "deleted", id="deleted by hand"),
        pytest.param(
            pod(metadata=DELETING), Retirement("", frozenset({POD_UID})), "scale_down", id="retired"
        ),
        pytest.param(
            pod(metadata={"labels": {"pod-template-hash": "old"}}),
            Retirement("new"),
            "rollout",
            id="replaced",
        ),
        pytest.param(
            pod(metadata={"labels": {"pod-template-hash": "new"}}),
            Retirement("new"),
            "deleted",
            id="not replaced",
        ),
        pytest.param(
            pod(status={"conditions": [DISRUPTED | {"reason": "EvictionByEvictionAPI"}]}),
            Retirement(),
            "eviction",
            id="its node is drained",
        ),
        pytest.param(
            pod(status={"conditions": [DISRUPTED | {"reason": "DeletionByTaintManager"}]}),
            Retirement(),
            "node",
            id="its node was lost",
        ),
        pytest.param(
            pod(status={"conditions": [DISRUPTED | {"reason": "DeletionByPodGC"}]}),
            Retirement(),
            "node",
            id="its node was removed",
        ),
    ],
)
def test_the_last_state_of_a_pod_that_is_gone_gives_the_reason(
    departed: Object | None, retirement: Retirement, reason: str
) -> None:
    verdict = judge(INSTANCE, None, departed, retirement)
    assert verdict is not None
    assert verdict.reason == reason


def test_another_pod_of_the_same_name_is_not_its_pod() -> None:
    verdict = judge(INSTANCE, pod(running("2026-01-01T12:00:09Z"), uid="uid-2"), None, Retirement())
    assert verdict is not None
    assert POD_UID in verdict.detail


def test_the_template_of_the_youngest_pod_is_the_newest() -> None:
    pods = [
        pod(metadata={"creationTimestamp": moment, "labels": {"pod-template-hash": template}})
        for moment, template in (("2026-01-01T00:00:02Z", "new"), ("2026-01-01T00:00:01Z", "old"))
    ]
    assert newest_template(pods) == "new"
    assert newest_template([]) == ""


@pytest.mark.parametrize(
    ("seen", "telling"),
    [
        (pod(running("2026-01-01T12:00:09Z")), False),
        (pod(), False),
        (pod(running("2026-01-01T12:00:09Z") | {"restartCount": 1}), True),
        (pod({"state": {"terminated": terminated(1)}}), True),
        (pod(metadata=DELETING), True),
        (pod(phase="Failed"), True),
    ],
)
def test_only_pods_in_which_something_ended_wake_the_rescue(seen: Object, telling: bool) -> None:
    assert may_have_died(seen) is telling
