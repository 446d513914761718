"""The client of the management port, over real HTTP."""

import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from task_operator.management.service_client import ServiceClient, ServiceUnreachableError
from tests.support.fake_management_port import FakeManagementPort
from tests.support.kube_objects import pod

KEY = ("team", "demo")
# Claims {"aud": ["task-service/team/demo"]}, unsigned: who checks a signature is the service.
TOKEN = "e30.eyJhdWQiOlsidGFzay1zZXJ2aWNlL3RlYW0vZGVtbyJdfQ.x"
Object = dict[str, Any]


class Tokens:
    """Stands in for TokenRequest, which the tests against the API server use."""

    async def token(self, key: tuple[str, str]) -> str:
        return TOKEN

    def forget(self, key: tuple[str, str]) -> None:
        """Nothing is kept."""


@pytest.fixture
def stand_in() -> Iterator[FakeManagementPort]:
    with FakeManagementPort() as server:
        yield server


@pytest.fixture
async def client(stand_in: FakeManagementPort) -> AsyncIterator[ServiceClient]:
    client = ServiceClient(KEY, Tokens(), stand_in.port)
    yield client
    await client.close()


def api_pod(ip: str) -> Object:
    labels = {"app.kubernetes.io/component": "api"}
    return pod(uid=ip, metadata={"name": ip, "labels": labels}, status={"podIP": ip, "conditions": [
        {"type": "Ready", "status": "True"}]})  # fmt: skip


def registered(**more: Any) -> Object:
    return {"id": "w1", "state": "active", "pod_name": "p", "pod_uid": "u", "container": "worker",
            "process_started_at": "2026-01-01T00:00:00.25+00:00", "running": 3} | more  # fmt: skip


async def test_instances_in_no_pod_are_left_out(
    client: ServiceClient, stand_in: FakeManagementPort
) -> None:
    stand_in.workers[KEY] = [registered(), registered(id="w2", pod_name=None, pod_uid=None)]
    (instance,) = await client.workers([api_pod("127.0.0.1")])
    assert (instance.id, instance.running, instance.started_at.microsecond) == ("w1", 3, 250_000)


async def test_a_pod_that_refuses_the_connection_is_passed_over(
    client: ServiceClient, stand_in: FakeManagementPort
) -> None:
    stand_in.workers[KEY] = [registered()]
    answer = await client.release(
        [api_pod("127.0.0.0"), api_pod("127.0.0.1")], "w1", "crash", "x" * 600
    )
    assert answer == {
        "worker_id": "w1",
        "released": 3,
        "explained": 0,
        "failed": 0,
        "already_dead": False,
    }


async def test_an_instance_that_the_service_does_not_know_is_no_error(
    client: ServiceClient,
) -> None:
    assert await client.release([api_pod("127.0.0.1")], "nobody", "crash", "") is None
    assert await client.drain([api_pod("127.0.0.1")], "nobody") is None


async def test_when_nobody_answers_the_error_says_what_each_pod_did() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = ServiceClient(KEY, Tokens(), port)
    with pytest.raises(ServiceUnreachableError, match=r"127\.0\.0\.1: .*failed"):
        await client.workers([api_pod("127.0.0.1")])
    with pytest.raises(ServiceUnreachableError, match="no pod of the service is running"):
        await client.workers([])
    await client.close()
