"""`task_service.testing`, and validation by the decorator and the control exceptions."""

import asyncio
import math
import os
import re
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from task_service.domain.outcomes import Outcome, RetryPolicy
from task_service.testing import run_inline, run_inline_async
from task_service.worker import Context, Discard, Retry, Snooze, handler
from task_service.worker.handlers import LostClaimError

GUIDE = Path(__file__).parents[2] / "docs" / "handlers.md"


@handler("double", retry=RetryPolicy(base_seconds=10))
async def double(context: Context) -> Any:
    return {
        "doubled": context.payload["number"] * 2,
        "attempt": context.attempt,
        "fence": context.fence,
    }


@handler("threaded")
def threaded(context: Context) -> Any:
    async def inner() -> str:
        return threading.current_thread().name

    return [threading.current_thread().name == context.wait(inner()), context.max_attempts]


@handler("isolated", isolated=True)
def isolated(context: Context) -> None:
    context.transaction()


def test_coroutine_and_function_return_their_results() -> None:
    ended = run_inline(double, {"number": 21}, attempt=2, fence=7)
    assert (ended.outcome, ended.result) == (
        Outcome.COMPLETED,
        {"doubled": 42, "attempt": 2, "fence": 7},
    )
    assert ended.delay_seconds is None
    assert run_inline(threaded, max_attempts=9).result == [False, 9]


def test_failure_has_a_traceback_and_a_retry_delay() -> None:
    ended = run_inline(double, {})
    assert (ended.outcome, ended.delay_seconds) == (Outcome.FAILED, 10.0)
    assert ended.error
    assert "KeyError: 'number'" in ended.error
    assert run_inline(double, {}, attempt=3).delay_seconds == 40.0
    assert run_inline(double, {}, attempt=5).delay_seconds is None


def test_payload_and_result_are_converted_to_json_as_in_a_worker() -> None:
    seen: list[Any] = []

    @handler("see")
    def see(context: Context) -> Any:
        seen.append(context.payload)
        return context.payload

    assert run_inline(see, (1, 2)).result == [1, 2]
    assert seen == [[1, 2]]
    with pytest.raises(TypeError):
        run_inline(see, {1, 2})

    @handler("odd")
    async def odd(_: Context) -> Any:
        return {1, 2}

    assert "not JSON" in str(run_inline(odd).error)


def test_control_exceptions_set_outcome_and_delay() -> None:
    @handler("raises")
    async def raises(context: Context) -> None:
        raise exceptions[context.payload]

    exceptions: dict[str, BaseException] = {
        "snooze": Snooze(30, "busy"),
        "retry": Retry(5),
        "discard": Discard("bad"),
        "lost": LostClaimError(),
    }
    ends = {name: run_inline(raises, name) for name in exceptions}
    snooze = ends["snooze"]
    assert (snooze.outcome, snooze.delay_seconds, snooze.reason) == (Outcome.SNOOZED, 30.0, "busy")
    assert (ends["retry"].outcome, ends["retry"].delay_seconds) == (Outcome.FAILED, 5.0)
    assert (ends["discard"].outcome, ends["discard"].error) == (Outcome.DISCARDED, "bad")
    assert ends["lost"].outcome == Outcome.LOST


@pytest.mark.parametrize("is_async", [True, False])
def test_time_limit_is_enforced_and_can_be_extended(is_async: bool) -> None:
    released = threading.Event()

    @handler("slow", timeout_seconds=0.2)
    async def slow(context: Context) -> str:
        await context.extend(context.payload)
        await asyncio.sleep(0.6)
        return "in time"

    @handler("slow", timeout_seconds=0.2)
    def slow_function(context: Context) -> str:
        context.wait(context.extend(context.payload))
        released.wait(0.6)
        return "in time"

    one = slow if is_async else slow_function
    assert run_inline(one, 0.1).outcome == Outcome.TIMED_OUT
    assert run_inline(one, 60).result == "in time"


def test_transaction_without_a_connection_explains_what_to_do() -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction():
            pass

    assert "run_inline_async(…, connection=…)" in str(run_inline(writes).error)
    assert "an isolated handler has no transaction" in str(run_inline(isolated).error)


async def test_run_inline_in_an_event_loop_refers_to_the_async_variant() -> None:
    with pytest.raises(RuntimeError, match="await run_inline_async"):
        run_inline(double, {"number": 1})
    assert (await run_inline_async(double, {"number": 1})).result["doubled"] == 2


def test_isolated_handler_must_be_importable_by_name() -> None:
    with pytest.raises(
        ValueError,
        match="inner: an isolated handler must be a function that its module has by name",
    ):

        @handler("inner", isolated=True)
        def inner(_: Context) -> None:
            """Handler that cannot be imported."""

    assert isolated.path == f"{__name__}:isolated"


def test_memory_limit_requires_an_isolated_handler() -> None:
    with pytest.raises(ValueError, match="memory_mb needs isolated=True"):
        handler("big", memory_mb=100)(double.function)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 1e10])
def test_unrepresentable_delay_is_rejected(seconds: float) -> None:
    with pytest.raises(ValueError, match="is not a number of seconds to wait"):
        Snooze(seconds)
    with pytest.raises(ValueError, match="is not a number of seconds to wait"):
        Retry(seconds)


def test_delay_must_be_a_number_and_a_negative_one_becomes_zero() -> None:
    with pytest.raises(TypeError):
        Retry("soon")  # type: ignore[arg-type]
    assert Retry(-5).seconds == 0.0
    assert Snooze(Decimal("1.5")).seconds == 1.5  # type: ignore[arg-type]


def test_example_of_the_guide_passes(tmp_path: Path) -> None:
    """Run the example package and its test from the guide."""
    for name, code in re.findall(
        r"```python\n# greetings/(\S+)\n(.*?)```", GUIDE.read_text(), re.DOTALL
    ):
        (tmp_path / name).write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .")
    argv, environment = (
        [sys.executable, "-m", "pytest", "-q"],
        os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    ran = subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "2 passed" in ran.stdout) == (0, True), ran.stdout + ran.stderr
