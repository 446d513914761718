"""The keyed queue: one pass per key, merged events, backoff per key."""

import asyncio

import pytest

from task_operator.kube.kinds import Key
from task_operator.process.workqueue import KeyedQueue

A, B = ("team", "a"), ("team", "b")


class Recorder:
    """Passes that wait to be let through, and what became of them."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Key] = asyncio.Queue()
        self.gate = asyncio.Semaphore(0)
        self.failures: asyncio.Queue[tuple[Key, float]] = asyncio.Queue()
        self.answers: list[float | Exception | None] = []

    async def process(self, key: Key) -> float | None:
        self.begun.put_nowait(key)
        await self.gate.acquire()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def failed(self, key: Key, error: Exception, pause: float) -> None:
        self.failures.put_nowait((key, pause))

    def queue(self, backoff: float = 60.0, at_once: int = 8) -> KeyedQueue:
        return KeyedQueue(
            self.process, self.failed, at_once=at_once, backoff=lambda failures: backoff * failures
        )


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def next_pass(recorder: Recorder) -> Key:
    return await asyncio.wait_for(recorder.begun.get(), 5)


async def test_events_during_a_pass_are_merged_into_one_more(recorder: Recorder) -> None:
    queue = recorder.queue()
    queue.add(A)
    await next_pass(recorder)
    for _ in range(5):
        queue.add(A)
    assert recorder.begun.empty(), "two passes of one key at a time"
    recorder.gate.release()
    assert await next_pass(recorder) == A
    recorder.gate.release()
    queue.add(B)
    assert await next_pass(recorder) == B
    assert recorder.begun.empty()
    await queue.close()


async def test_keys_do_not_wait_for_each_other(recorder: Recorder) -> None:
    queue = recorder.queue()
    queue.add(A)
    queue.add(B)
    assert {await next_pass(recorder), await next_pass(recorder)} == {A, B}
    await queue.close()


async def test_a_pass_can_ask_to_be_called_again(recorder: Recorder) -> None:
    queue = recorder.queue()
    recorder.answers = [0.01]
    queue.add(A)
    await next_pass(recorder)
    recorder.gate.release()
    assert await next_pass(recorder) == A
    await queue.close()


async def test_a_failed_key_waits_whatever_events_come(recorder: Recorder) -> None:
    queue = recorder.queue(backoff=60)
    recorder.answers = [RuntimeError("no")]
    queue.add(A)
    await next_pass(recorder)
    recorder.gate.release()
    assert await asyncio.wait_for(recorder.failures.get(), 5) == (A, 60)
    queue.add(A)
    queue.add(B)
    assert await next_pass(recorder) == B, "the failed key did not wait"
    await queue.close()


async def test_a_changed_wish_ends_the_wait(recorder: Recorder) -> None:
    queue = recorder.queue(backoff=60)
    recorder.answers = [RuntimeError("no")]
    queue.add(A)
    await next_pass(recorder)
    recorder.gate.release()
    await asyncio.wait_for(recorder.failures.get(), 5)
    queue.add(A, urgent=True)
    assert await next_pass(recorder) == A
    await queue.close()


async def test_the_pause_grows_with_every_failure(recorder: Recorder) -> None:
    queue = recorder.queue(backoff=0.01)
    recorder.answers = [RuntimeError("no"), RuntimeError("no")]
    queue.add(A)
    for _ in range(2):
        await next_pass(recorder)
        recorder.gate.release()
    pauses = [(await asyncio.wait_for(recorder.failures.get(), 5))[1] for _ in range(2)]
    assert pauses == [0.01, 0.02]
    await queue.close()


async def test_closing_ends_running_passes(recorder: Recorder) -> None:
    queue = recorder.queue()
    queue.add(A)
    await next_pass(recorder)
    await asyncio.wait_for(queue.close(), 5)
    queue.add(B)
    assert recorder.begun.empty()
