"""Status and events of a TaskService, written only when they changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from task_operator.kube.api_client import ApiError
from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import Manifest
from task_operator.kube.objects import condition, name_of, namespace_of
from task_operator.state import Notes
from task_operator.status.build import Situation, build, changes

log = structlog.get_logger(__name__)

WARNINGS = {("Degraded", "True")}
SILENT = {"Progressing"}
"""Progressing says what Ready and Migrated say in other words."""


class Reporter:
    """Writes what a pass found."""

    def __init__(
        self, cluster: Cluster, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._cluster = cluster
        self._clock = clock

    async def report(self, situation: Situation, notes: Notes) -> None:
        """Write status and events, if they differ from what is known."""
        task_service = situation.task_service
        wanted = build(situation, self._clock())
        observed = task_service.get("status") or {}
        patch = changes(observed, wanted)
        if patch is None:
            return
        await self._cluster.patch_status(task_service, patch)
        for item in wanted["conditions"]:
            before = condition(task_service, item["type"])
            told = (item["status"], item["reason"])
            if (before and (before["status"], before["reason"]) == told) or notes.told.get(
                item["type"]
            ) == told:
                continue
            notes.told[item["type"]] = told
            if item["type"] in SILENT or (
                before is None and item["type"] != "Ready" and item["status"] != "True"
            ):
                continue
            log.info(
                "condition", taskservice=(namespace_of(task_service), name_of(task_service)),
                type=item["type"], status=item["status"], reason=item["reason"], message=item["message"],
            )  # fmt: skip
            kind = "Warning" if (item["type"], item["status"]) in WARNINGS else "Normal"
            text = f"{item['type']}={item['status']}: {item['message']}"
            await self.tell(task_service, kind, item["reason"], text)

    async def tell(self, task_service: Manifest, kind: str, reason: str, message: str) -> None:
        """Write an event; one that cannot be written is logged and lost, as nothing depends on it."""
        try:
            await self._cluster.record_event(task_service, kind, reason, message)
        except ApiError as error:
            log.warning("event_not_written", reason=reason, error=str(error))
