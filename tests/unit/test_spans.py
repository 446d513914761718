"""Spans created by the helpers of `task_service.telemetry`."""

import asyncio
import subprocess
import sys
from uuid import UUID

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import SpanKind, StatusCode

from task_service.settings import Settings
from task_service.telemetry import (
    add_span_attributes,
    add_span_event,
    get_tracer,
    set_span_error,
    traced_operation,
)
from task_service.telemetry.helpers import context_of, current_trace_context
from tests.support.spans import ended, span_memory


@pytest.fixture(autouse=True)
def _clear_spans() -> None:
    span_memory().clear()


def test_decorated_function_creates_a_span_per_call_with_added_attributes() -> None:
    @traced_operation("resize", {"kind": "picture"}, width=2)
    def resize(name: str) -> str:
        add_span_attributes(name=name, owner=UUID(int=1))
        add_span_event("read", {"bytes": 5})
        return name.upper()

    assert [resize("a"), resize("b")] == ["A", "B"]
    first, second = ended("resize")
    assert dict(first.attributes or {}) == {
        "kind": "picture",
        "width": 2,
        "name": "a",
        "owner": str(UUID(int=1)),
    }
    assert [(event.name, dict(event.attributes or {})) for event in second.events] == [
        ("read", {"bytes": 5})
    ]
    assert resize.__name__ == "resize"


async def test_concurrent_decorated_coroutines_have_separate_spans() -> None:
    @traced_operation("fetch")
    async def fetch(number: int) -> str | None:
        await asyncio.sleep(0)
        add_span_attributes(number=number)
        return current_trace_context()

    contexts = await asyncio.gather(fetch(1), fetch(2))
    assert len(set(contexts)) == 2
    assert [(span.attributes or {})["number"] for span in ended("fetch")] == [1, 2]


def test_exception_marks_the_span_as_failed() -> None:
    with pytest.raises(ValueError, match="broken"), traced_operation("fail"):
        raise ValueError("broken")
    [span] = ended("fail")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_error_can_be_recorded_without_raising_it() -> None:
    with get_tracer().start_as_current_span("reported"):
        set_span_error("no such picture")
    with get_tracer().start_as_current_span("caught"):
        set_span_error(KeyError("x"))
    assert ended("reported")[0].status.description == "no such picture"
    assert ended("caught")[0].events[0].name == "exception"


def test_stored_trace_context_continues_the_trace() -> None:
    with traced_operation("request") as span:
        carried = current_trace_context()
    continued = get_tracer().start_span("run", context=context_of(carried))
    assert continued.get_span_context().trace_id == span.get_span_context().trace_id
    assert current_trace_context() is None


def test_client_spans_without_a_parent_are_dropped() -> None:
    from task_service.telemetry.sdk import RootSampler

    roots = RootSampler(ALWAYS_ON)
    decisions = {
        kind: roots.should_sample(None, 1, "x", kind).decision
        for kind in (SpanKind.CLIENT, SpanKind.SERVER)
    }
    assert decisions == {
        SpanKind.CLIENT: Decision.DROP,
        SpanKind.SERVER: Decision.RECORD_AND_SAMPLE,
    }


def test_resource_contains_service_version_and_pod() -> None:
    from task_service.telemetry.sdk import resource_of

    values = {
        "app_name": "tasks",
        "version": "1.2.3",
        "pod_name": "api-1",
        "pod_namespace": "shop",
        "node_name": "n1",
    }
    attributes = resource_of(Settings(_env_file=None, **values)).attributes  # type: ignore[call-arg,arg-type]
    expected = {
        "service.name": "tasks",
        "service.version": "1.2.3",
        "k8s.pod.name": "api-1",
        "k8s.namespace.name": "shop",
        "k8s.node.name": "n1",
    }
    assert expected.items() <= dict(attributes).items()


def test_opentelemetry_sdk_is_not_imported_when_tracing_is_disabled() -> None:
    code = (
        "import sys, task_service.server\n"
        "from task_service.settings import Settings\n"
        "from task_service.telemetry.tracing import start_tracing\n"
        "assert start_tracing(Settings(_env_file=None)) is None\n"
        "sdk = ('opentelemetry.sdk.trace', 'opentelemetry.instrumentation', "
        "'opentelemetry.exporter', 'task_service.telemetry.sdk')\n"
        "print([m for m in sys.modules if m.startswith(sdk)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]"
