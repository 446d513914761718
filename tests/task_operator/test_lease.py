"""The election, on a Lease in memory with the API server's compare-and-swap and a clock that the
test moves.

Why in memory: what matters is what happens after so many seconds without an answer; the real API
server takes part in test_leader_live.
"""

import copy

import pytest

from task_operator.kube.api_client import ApiError
from task_operator.kube.kinds import Manifest
from task_operator.process.lease import Election
from task_operator.process.settings import Settings


class OneLease:
    """The API server, as far as one Lease goes."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.version = 0
        self.down = False

    async def find(self, path: str) -> Manifest | None:
        self._answer()
        return copy.deepcopy(self.lease)

    async def request(self, method: str, path: str, *, body: Manifest) -> Manifest:
        self._answer()
        if method == "PUT" and (
            not self.lease or body["metadata"]["resourceVersion"] != str(self.version)
        ):
            raise ApiError(409, "Conflict", "the object has been modified")
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    def _answer(self) -> None:
        if self.down:
            raise ApiError(0, "Unreachable", "connection refused")

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Clock:
    """Time that passes only while a candidate pauses; `at` says what happens then."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses = 0

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1
        assert self.pauses < 100, "it waits for ever"


@pytest.fixture
def server() -> OneLease:
    return OneLease()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(name: str, server: OneLease, clock: Clock) -> Election:
    return Election(server, Settings(pod_name=name), monotonic=lambda: clock.now, pause=clock.pause)


async def test_the_first_takes_the_lease_and_the_second_waits_for_its_end(
    server: OneLease, clock: Clock
) -> None:
    await candidate("first", server, clock).acquire()
    assert server.holder == "first"
    began = clock.now
    await candidate("second", server, clock).acquire()
    assert server.holder == "second"
    assert 10 < clock.now - began <= 14


async def test_a_released_lease_is_taken_at_once(server: OneLease, clock: Clock) -> None:
    first = candidate("first", server, clock)
    await first.acquire()
    await first.release()
    assert server.holder == ""
    began = clock.now
    await candidate("second", server, clock).acquire()
    assert clock.now == began


async def test_of_two_candidates_that_see_a_free_lease_one_gets_it(
    server: OneLease, clock: Clock
) -> None:
    first = candidate("first", server, clock)
    await first.acquire()
    await first.release()
    stale = copy.deepcopy(server.lease)
    await candidate("second", server, clock).acquire()
    third = candidate("third", server, clock)

    async def stale_answer(path: str) -> Manifest | None:
        server.find = real  # type: ignore[method-assign]
        return stale

    real, server.find = server.find, stale_answer  # type: ignore[method-assign]
    assert not await third.try_acquire()
    assert server.holder == "second"


async def test_a_leader_that_cannot_renew_ends_before_its_lease_does(
    server: OneLease, clock: Clock
) -> None:
    leader = candidate("leader", server, clock)
    await leader.acquire()
    began = clock.now
    server.down = True
    await leader.hold()
    assert 6 <= clock.now - began < 10


async def test_a_leader_that_was_replaced_ends_at_once(server: OneLease, clock: Clock) -> None:
    leader = candidate("leader", server, clock)
    await leader.acquire()
    assert server.lease
    server.lease["spec"]["holderIdentity"] = "somebody"
    began = clock.now
    await leader.hold()
    assert clock.now - began == 2


async def test_a_short_outage_costs_nothing(server: OneLease, clock: Clock) -> None:
    leader = candidate("leader", server, clock)
    await leader.acquire()

    async def outage(seconds: float) -> None:
        await Clock.pause(clock, seconds)
        server.down = clock.pauses == 2
        if clock.pauses == 6:
            assert server.lease
            server.lease["spec"]["holderIdentity"] = "the end of this test"

    leader._pause = outage
    began = clock.now
    await leader.hold()
    assert clock.now - began == 12


async def test_a_lease_of_somebody_else_is_not_released(server: OneLease, clock: Clock) -> None:
    await candidate("first", server, clock).acquire()
    await candidate("second", server, clock).release()
    assert server.holder == "first"
