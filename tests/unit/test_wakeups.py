"""Notifications: the first in the transaction, later ones merged after it."""

import asyncio

from task_service.queue.wakeups import Wakeups


class Sent:
    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.fails = False

    async def notify(self, queues: list[str]) -> None:
        if self.fails:
            raise OSError("away")
        self.batches.append(queues)


def test_first_is_sent_in_the_transaction_and_the_next_20_ms_are_merged() -> None:
    async def run() -> None:
        sent, now = Sent(), [100.0]
        wakeups = Wakeups(sent.notify, clock=lambda: now[0])
        assert wakeups.inside(["a", "a", "b"]) == ["a", "b"]
        now[0] += 0.01
        assert [wakeups.inside(["a"]) for _ in range(5)] == [[]] * 5
        assert wakeups.inside(["c"]) == ["c"]
        now[0] += 0.02
        assert wakeups.inside(["a"]) == ["a"]
        await wakeups.close()
        assert sent.batches == [["a"]]

    asyncio.run(run())


def test_failed_notification_does_not_prevent_later_ones() -> None:
    async def run() -> None:
        sent = Sent()
        sent.fails = True
        wakeups = Wakeups(sent.notify, clock=lambda: 1.0)
        wakeups.inside(["a"])
        wakeups.inside(["a"])
        await wakeups.close()
        sent.fails = False
        wakeups.inside(["a"])
        await wakeups.close()
        assert sent.batches == [["a"]]

    asyncio.run(run())
