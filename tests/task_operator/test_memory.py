"""What the operator remembers (store, tokens), and what it is told (settings)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from task_operator.kube.kinds import CONFIG_MAP, POD, TASK_SERVICE
from task_operator.kube.object_cache import ObjectCache
from task_operator.management.trust import SigningKeys, Tokens
from task_operator.process.settings import Settings
from tests.support.kube_objects import pod, task_service

Object = dict[str, Any]
KEY = ("team", "demo")


def config_map(version: int, *, uid: str = "u", owner: str = "owner") -> Object:
    reference = {"kind": "TaskService", "name": "demo", "uid": owner, "controller": True}
    metadata = {
        "name": "x",
        "namespace": "team",
        "uid": uid,
        "resourceVersion": str(version),
        "ownerReferences": [reference],
    }
    labels = {"app.kubernetes.io/instance": "demo"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | {"labels": labels}}


class TestStore:
    def test_an_older_state_of_an_object_does_not_replace_a_newer_one(self) -> None:
        store = ObjectCache()
        assert store.put(CONFIG_MAP, config_map(10))
        assert not store.put(CONFIG_MAP, config_map(9))
        assert store.get(CONFIG_MAP, "team", "x") == config_map(10)

    def test_another_object_of_the_same_name_replaces_it_and_a_late_deletion_does_not_take_it(
        self,
    ) -> None:
        store = ObjectCache()
        store.put(CONFIG_MAP, config_map(10))
        store.put(CONFIG_MAP, config_map(5, uid="other"))
        store.remove(CONFIG_MAP, config_map(10))
        assert store.of_instance(CONFIG_MAP, KEY) == [config_map(5, uid="other")]

    def test_children_are_those_with_the_controllers_uid(self) -> None:
        store = ObjectCache()
        store.put(CONFIG_MAP, config_map(1))
        assert store.owned(KEY, "owner") == [config_map(1)]
        assert store.owned(KEY, "a former TaskService of that name") == []

    def test_a_listing_takes_away_what_is_gone_but_not_what_is_younger(self) -> None:
        store = ObjectCache()
        store.put(CONFIG_MAP, config_map(10))
        store.replace(CONFIG_MAP, None, [], version=9)
        store.replace(CONFIG_MAP, "elsewhere", [], version=11)
        assert store.get(CONFIG_MAP, "team", "x") == config_map(10)
        store.replace(CONFIG_MAP, None, [], version=11)
        assert store.get(CONFIG_MAP, "team", "x") is None

    def test_a_listing_tells_of_task_services_that_are_gone(self) -> None:
        store = ObjectCache()
        store.put(TASK_SERVICE, task_service())
        store.replace(TASK_SERVICE, None, [], version=1)
        assert store.task_service(KEY) is None

    def test_the_last_state_of_a_deleted_pod_is_kept(self) -> None:
        store = ObjectCache()
        store.put(POD, pod(phase="Running"))
        store.remove(POD, pod(phase="Failed"))
        departed = store.deleted_pod("uid-1")
        assert departed is not None
        assert departed["status"]["phase"] == "Failed"


class FakeIssuer:
    """TokenRequest, counted; the real one answers in the tests against the API server."""

    def __init__(self, clock: "Clock") -> None:
        self.clock, self.asked = clock, 0

    async def request_token(self, namespace: str, account: str, audience: str) -> tuple[str, str]:
        self.asked += 1
        return f"{account}@{namespace} for {audience} #{self.asked}", (
            self.clock.now + timedelta(hours=1)
        ).isoformat()


class Clock:
    now = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_token_is_kept_for_four_fifths_of_its_time() -> None:
    clock = Clock()
    issuer = FakeIssuer(clock)
    tokens = Tokens(issuer, "ops", "operator", clock=lambda: clock.now)
    first = await tokens.token(KEY)
    assert first == "operator@ops for task-service/team/demo #1"
    clock.now += timedelta(minutes=47)
    assert await tokens.token(KEY) == first
    clock.now += timedelta(minutes=2)
    assert (await tokens.token(KEY)).endswith("#2")
    tokens.forget(KEY)
    assert (await tokens.token(KEY)).endswith("#3")


def test_keys_in_another_order_are_the_same_trust() -> None:
    one, two = {"kid": "1"}, {"kid": "2"}
    rendered = [
        SigningKeys("i", {"keys": keys}).trusted_issuers(KEY, "s")
        for keys in ([one, two], [two, one])
    ]
    assert rendered[0] == rendered[1]


class TestSettings:
    def test_the_environment_is_read_by_the_fields_names(self) -> None:
        settings = Settings.from_environment(
            {
                "POD_NAMESPACE": "ops",
                "WATCH_NAMESPACES": "a, b,",
                "LEASE_SECONDS": "20",
                "LOG_LEVEL": "debug",
            }
        )
        assert settings.watch_namespaces == ("a", "b")
        assert (settings.lease_seconds, settings.log_level) == (20, "DEBUG")
        assert settings.subject == "system:serviceaccount:ops:task-operator"

    def test_an_empty_variable_is_an_unset_one(self) -> None:
        assert Settings.from_environment({"WATCH_NAMESPACES": "", "PORT": ""}).port == 8082

    def test_a_wrong_value_names_its_variable(self) -> None:
        with pytest.raises(ValidationError, match="lease_seconds"):
            Settings.from_environment({"LEASE_SECONDS": "-1"})

    def test_a_renewal_that_may_fail_longer_than_the_lease_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="RENEW_SECONDS"):
            Settings.from_environment({"LEASE_SECONDS": "5", "RENEW_SECONDS": "6"})
