"""Installed package of sample handlers, one for each way in which a worker runs a function.

The payload names the function to run as `do`; its other fields are arguments of that function.
Many of the functions misbehave on purpose.
"""

from collections.abc import Callable
from typing import Any

from task_service.worker import Context, handler

from . import outcomes, processes, shared_state, timing

MODULES = (outcomes, timing, processes, shared_state)


def _find(context: Context) -> Callable[[Context], Any]:
    name = context.payload["do"]
    function: Callable[[Context], Any]
    [function] = (getattr(module, name) for module in MODULES if hasattr(module, name))
    return function


@handler("coroutine")
async def coroutine(context: Context) -> Any:
    return await _find(context)(context)


@handler("thread")
def thread(context: Context) -> Any:
    return _find(context)(context)


@handler("process", isolated=True)
def process(context: Context) -> Any:
    return _find(context)(context)


@handler("small_process", isolated=True, memory_mb=300)
def small_process(context: Context) -> Any:
    return _find(context)(context)


@handler("async_process", isolated=True)
async def async_process(context: Context) -> Any:
    return await _find(context)(context)


ALL_HANDLERS = [coroutine, thread, process, small_process, async_process]
