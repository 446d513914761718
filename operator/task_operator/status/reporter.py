"""Write the status and the events of a TaskService, but only when they change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import Manifest
from task_operator.kube.objects import condition, name_of, namespace_of
from task_operator.state import ResourceState
from task_operator.status.build import Observed, build, changes

log = structlog.get_logger(__name__)

WARNINGS = {("Degraded", "True")}
SILENT = {"Progressing"}
"""Condition types without an event: Progressing repeats what Ready and Migrated report."""


class Reporter:
    """Writes the results of a pass to the API server."""

    def __init__(
        self, cluster: Cluster, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._cluster = cluster
        self._clock = clock

    async def report(self, observed: Observed, state: ResourceState) -> None:
        """Write the status if it differs from the cached one, and an event for each new reason."""
        task_service = observed.task_service
        desired = build(observed, self._clock())
        patch = changes(task_service.get("status") or {}, desired)
        if patch is None:
            return
        await self._cluster.patch_status(task_service, patch)
        for item in desired["conditions"]:
            if self._needs_event(item, task_service, state):
                await self._report_condition(item, task_service)

    def _needs_event(self, item: Manifest, task_service: Manifest, state: ResourceState) -> bool:
        """Return True if a condition changed and is worth an event; remember it as reported."""
        before = condition(task_service, item["type"])
        current = (item["status"], item["reason"])
        if before and (before["status"], before["reason"]) == current:
            return False
        if state.reported.get(item["type"]) == current:
            return False
        state.reported[item["type"]] = current
        if item["type"] in SILENT:
            return False
        return before is not None or item["type"] == "Ready" or item["status"] == "True"

    async def _report_condition(self, item: Manifest, task_service: Manifest) -> None:
        fields = {name: item[name] for name in ("type", "status", "reason", "message")}
        key = (namespace_of(task_service), name_of(task_service))
        log.info("condition", taskservice=key, **fields)
        kind = "Warning" if (item["type"], item["status"]) in WARNINGS else "Normal"
        message = f"{item['type']}={item['status']}: {item['message']}"
        await self.emit_event(task_service, kind, item["reason"], message)

    async def emit_event(
        self, task_service: Manifest, kind: str, reason: str, message: str
    ) -> None:
        """Emit an event; a failure is only logged, because nothing depends on events."""
        try:
            await self._cluster.record_event(task_service, kind, reason, message)
        except ApiError as error:
            log.warning("event_not_written", reason=reason, error=str(error))
