"""Scaling, troubles and status: pure decisions, case by case."""

from datetime import UTC, datetime
from typing import Any

import pytest

from task_operator.kube.objects import rolled_out
from task_operator.management.service_client import Instance, addresses
from task_operator.migration import Failed, Migrated, Running, Start
from task_operator.scaling.decide import (
    choose_retired,
    deletion_costs,
    may_lower,
    running_by_pod,
    stranded,
)
from task_operator.state import ScaleDown
from task_operator.status.build import Observed, build, changes, is_paused
from task_operator.status.diagnosis import Problem, diagnose, is_stuck
from tests.support.kube_objects import deployment, pod, task_service

Object = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY = [{"type": "Ready", "status": "True"}]
DELETING = {"deletionTimestamp": "2026-01-01T12:01:00Z"}


def worker_pod(name: str, *, is_ready: bool = True, deleting: bool = False) -> Object:
    labels = {"app.kubernetes.io/component": "worker"}
    named: Object = {"name": name, "labels": labels} | (DELETING if deleting else {})
    return pod(
        uid=name,
        metadata=named,
        status={"conditions": READY if is_ready else [], "podIP": f"ip-{name}"},
    )


def instance(pod_uid: str, running: int, state: str = "active") -> Instance:
    return Instance(f"w-{pod_uid}", state, pod_uid, pod_uid, "worker", NOW, running)


def names(pods: list[Object]) -> list[str]:
    return [item["metadata"]["name"] for item in pods]


class TestScalingDown:
    def test_the_emptiest_go_first(self) -> None:
        pods = [worker_pod(name) for name in ("a", "b", "c")]
        assert names(choose_retired(pods, {"a": 5, "b": 0, "c": 2}, 1)) == ["b", "c"]

    def test_pods_that_are_not_ready_go_before_empty_ones(self) -> None:
        pods = [worker_pod("a"), worker_pod("b", is_ready=False)]
        assert names(choose_retired(pods, {"a": 0, "b": 9}, 1)) == ["b"]

    def test_pods_that_go_already_are_not_counted(self) -> None:
        pods = [worker_pod("a"), worker_pod("b"), worker_pod("c", deleting=True)]
        assert names(choose_retired(pods, {}, 1)) == ["a"]
        assert choose_retired(pods, {}, 2) == []

    def test_retired_pods_cost_less_than_any_other(self) -> None:
        a, b = worker_pod("a"), worker_pod("b")
        costs = {
            item["metadata"]["name"]: cost
            for item, cost in deletion_costs([a, b], [b], {"a": 3, "b": 1})
        }
        assert costs["a"] == 3
        assert costs["b"] < 0

    def test_dead_instances_run_nothing(self) -> None:
        assert running_by_pod([instance("a", 2), instance("a", 1), instance("a", 7, "dead")]) == {
            "a": 3
        }

    @pytest.mark.parametrize(
        ("running", "now", "may"),
        [({"a": 1}, 9.0, False), ({"a": 0}, 9.0, True), ({"a": 1}, 10.0, True)],
    )
    def test_replicas_are_lowered_when_the_retired_are_empty_or_their_time_is_over(
        self, running: dict[str, int], now: float, may: bool
    ) -> None:
        assert (
            may_lower(ScaleDown(1, frozenset({"a"}), deadline=10.0), running | {"other": 5}, now)
            is may
        )

    def test_a_drained_pod_that_stays_is_stranded(self) -> None:
        pods = [worker_pod("a"), worker_pod("b"), worker_pod("c", deleting=True)]
        instances = [instance("a", 0, "draining"), instance("b", 0), instance("c", 0, "draining")]
        assert names(stranded(pods, instances)) == ["a"]


def test_ready_api_pods_are_asked_first_and_dying_ones_last() -> None:
    api = pod(uid="api", metadata={"name": "api", "labels": {"app.kubernetes.io/component": "api"}},
              status={"conditions": READY, "podIP": "fd00::1"})  # fmt: skip
    pods = [
        worker_pod("dying", deleting=True),
        worker_pod("unready", is_ready=False),
        worker_pod("worker"),
        api,
    ]
    assert addresses(pods) == ["[fd00::1]", "ip-worker", "ip-unready", "ip-dying"]


SPEC: Object = {
    "database": {"secretRef": {"name": "db", "key": "url"}},
    "auth": {"secretRef": {"name": "tokens"}},
    "api": {"extraEnv": []},
}
VOLUMES = {
    "volumes": [
        {"name": "database", "secret": {"secretName": "db"}},
        {"name": "auth", "projected": {"sources": [{"secret": {"name": "tokens"}}]}},
    ]
}


def waiting(reason: str, message: str = "") -> Object:
    return pod({"state": {"waiting": {"reason": reason, "message": message}}}, phase="Pending")


class TestTroubles:
    @pytest.mark.parametrize(
        ("message", "said"),
        [
            ('secret "db" not found',
             "Secret db, named in spec.database.secretRef, does not exist: create it with the key url"),
            ("couldn't find key url in Secret team/db",
             "Secret db, named in spec.database.secretRef, has no key url: add it"),
            ('secret "other" not found', "Secret other does not exist: create it"),
        ],
    )  # fmt: skip
    def test_a_config_error_names_the_secret_and_its_key(self, message: str, said: str) -> None:
        assert diagnose([waiting("CreateContainerConfigError", message)], {}, SPEC) == Problem(
            "SecretNotFound", said
        )

    @pytest.mark.parametrize(
        ("message", "said"),
        [
            ('MountVolume.SetUp failed for volume "database" : secret "db" not found',
             "Secret db, named in spec.database.secretRef, does not exist: create it with the key url"),
            ('MountVolume.SetUp failed for volume "database" : references non-existent secret key: url',
             "Secret db, named in spec.database.secretRef, has no key url: add it"),
            ('MountVolume.SetUp failed for volume "auth" : secret "tokens" not found',
             "Secret tokens, named in spec.auth.secretRef, does not exist: create it with the key secret-key"),
            ('MountVolume.SetUp failed for volume "auth" : references non-existent secret key: secret-key',
             "Secret tokens, named in spec.auth.secretRef, has no key secret-key: add it"),
        ],
    )  # fmt: skip
    def test_a_failed_mount_names_the_secret_and_its_key(self, message: str, said: str) -> None:
        stuck = pod(phase="Pending", spec=VOLUMES | {"nodeName": "n"})
        assert is_stuck(stuck)
        events = {"demo-worker-1": [{"reason": "FailedMount", "message": message}]}
        assert diagnose([stuck], events, SPEC) == Problem("SecretNotFound", said)

    @pytest.mark.parametrize(
        ("seen", "reason"),
        [
            (waiting("ImagePullBackOff", "Back-off"), "ImagePullFailed"),
            (waiting("CreateContainerConfigError", "something else"), "ContainerConfigError"),
            (waiting("CreateContainerConfigError", 'configmap "x" not found'), "ConfigMapNotFound"),
            (waiting("CrashLoopBackOff"), "CrashLoop"),
        ],
    )
    def test_other_reasons_are_told_too(self, seen: Object, reason: str) -> None:
        problem = diagnose([seen], {}, SPEC)
        assert problem is not None
        assert problem.reason == reason

    def test_starting_is_no_trouble_and_neither_is_a_pod_that_goes(self) -> None:
        going = waiting("ImagePullBackOff")
        going["metadata"] |= DELETING
        assert diagnose([waiting("ContainerCreating"), going], {}, SPEC) is None

    def test_a_missing_secret_is_told_before_its_consequences(self) -> None:
        pods = [
            waiting("CrashLoopBackOff"),
            waiting("CreateContainerConfigError", 'secret "db" not found'),
        ]
        problem = diagnose(pods, {}, SPEC)
        assert problem is not None
        assert problem.reason == "SecretNotFound"


def observed(**more: Any) -> Observed:
    given: Object = {"task_service": task_service(), "paused": False, "step": Migrated(), "api": deployment(),
                     "worker": deployment("demo-worker")}  # fmt: skip
    return Observed(**(given | more))


def states(status: Object) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


class TestStatus:
    def test_all_is_well(self) -> None:
        status = build(observed(), NOW)
        assert states(status) == {
            "Ready": ("True", "Ready"), "Progressing": ("False", "Settled"), "Degraded": ("False", "AsExpected"),
            "Migrated": ("True", "MigrationSucceeded"), "Paused": ("False", "NotPaused"),
        }  # fmt: skip
        assert status["worker"] == {"replicas": 2, "ready": 2, "selector": "a=1,b=2"}
        assert (status["image"], status["version"]) == ("registry/service:1", "1")

    @pytest.mark.parametrize(
        ("found", "ready", "progressing", "degraded"),
        [
            ({"step": Start(1)}, "Migrating", "True", "False"),
            ({"step": Running(1)}, "Migrating", "True", "False"),
            ({"step": Failed(1, "why", 9)}, "MigrationFailed", "False", "True"),
            ({"step": Running(1, "why")}, "MigrationFailed", "False", "True"),
            ({"api": deployment(availableReplicas=1)}, "RollingOut", "True", "False"),
            ({"worker": None}, "RollingOut", "True", "False"),
            ({"diagnosis": Problem("SecretNotFound", "which")}, "SecretNotFound", "False", "True"),
            ({"problem": Problem("RenderFailed", "why")}, "RenderFailed", "False", "True"),
        ],
    )
    def test_ready_says_what_it_waits_for(
        self, found: Object, ready: str, progressing: str, degraded: str
    ) -> None:
        told = states(build(observed(**found), NOW))
        assert told["Ready"] == ("False", ready)
        assert (told["Progressing"][0], told["Degraded"][0]) == (progressing, degraded)

    def test_a_failed_migration_names_the_version_that_serves(self) -> None:
        told = build(observed(step=Failed(2, "no such table", 9)), NOW)["conditions"][0]["message"]
        assert (
            told
            == "registry/service:1 is still serving; the migration failed (attempt 2): no such table"
        )

    def test_a_failure_is_told_until_an_attempt_succeeds(self) -> None:
        failed = build(observed(step=Failed(1, "why", 9)), NOW)
        again = observed(task_service=task_service(status=failed), step=Running(2))
        assert build(again, NOW)["conditions"] == failed["conditions"]

    def test_while_pods_are_replaced_the_old_image_is_the_one_that_serves(self) -> None:
        assert "image" not in build(observed(api=deployment(updatedReplicas=1)), NOW)

    def test_a_condition_keeps_its_time_while_its_status_stays(self) -> None:
        before = build(observed(), NOW)
        later = build(observed(task_service=task_service(status=before)), NOW.replace(hour=13))
        assert changes(before, later) is None
        broken = build(
            observed(task_service=task_service(status=before), diagnosis=Problem("CrashLoop", "")),
            NOW.replace(hour=13),
        )
        times = {item["type"]: item["lastTransitionTime"] for item in broken["conditions"]}
        assert (times["Ready"], times["Paused"]) == ("2026-01-01T13:00:00Z", "2026-01-01T12:00:00Z")

    def test_figures_that_are_not_known_stay(self) -> None:
        assert changes({"queue": {"ready": 1}, "api": {}}, {"api": {}}) is None

    def test_pausing_is_told_by_spec_or_annotation(self) -> None:
        assert is_paused(task_service(spec={"paused": True}))
        assert is_paused(task_service(metadata={"annotations": {"taskservice.dev/paused": "true"}}))
        assert not is_paused(
            task_service(metadata={"annotations": {"taskservice.dev/paused": "false"}})
        )

    @pytest.mark.parametrize(
        "status",
        [
            {"observedGeneration": 0},
            {"updatedReplicas": 1},
            {"replicas": 3},
            {"availableReplicas": 1},
            {"replicas": 4, "updatedReplicas": 4, "availableReplicas": 4},
        ],
    )
    def test_a_rollout_is_over_only_when_every_pod_is_new_available_and_wanted(
        self, status: Object
    ) -> None:
        assert rolled_out(deployment())
        assert not rolled_out(deployment(**status))
