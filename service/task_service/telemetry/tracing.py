"""Start of tracing in a process, which imports the SDK only if traces are on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from task_service.settings import Settings
    from task_service.telemetry.sdk import Tracing


def start_tracing(settings: Settings) -> Tracing | None:
    """Start tracing in this process; return None if it is off.

    The caller ends it with `await tracing.stop()`.
    """
    if not settings.otel_enabled:
        return None
    from task_service.telemetry.sdk import Tracing  # noqa: PLC0415 - import only if on

    return Tracing(settings)
