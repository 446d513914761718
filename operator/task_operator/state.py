"""What the operator remembers of a TaskService between two passes; losing it costs a repetition, never correctness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from task_operator.kube.kinds import Key, Manifest
from task_operator.management.service_client import ServiceClient
from task_operator.scaling.decide import ScaleDown

REMEMBERED = 1000


@dataclass
class Notes:
    """Notes about one TaskService."""

    service: ServiceClient
    scale_down: ScaleDown | None = None
    retired: dict[str, None] = field(default_factory=dict)
    """UIDs of pods given up by scale-downs, oldest first."""
    explained: dict[str, None] = field(default_factory=dict)
    """Instances whose end has been told to the service, oldest first."""
    stranded: set[str] = field(default_factory=set)
    last_rescue: Manifest | None = None
    figures: Manifest | None = None
    figures_at: float = float("-inf")
    figures_template: str = ""
    """The workers' pod template when the figures were read."""
    schema_revision: int | None = None
    applied: dict[tuple[str, str], str] = field(default_factory=dict)
    """Render hash last applied, by kind and name."""
    unverifiable: dict[str, frozenset[str]] = field(default_factory=dict)
    """Fields that were not ours even right after an apply (the API server normalised them away), by UID."""
    told: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Status and reason of each condition that an event was written for."""
    pod_event_at: float | None = None
    """When the oldest pod event not yet looked into came."""

    def retire(self, pod_uids: frozenset[str]) -> None:
        """Remember pods that go because of a scale-down."""
        _remember(self.retired, *pod_uids)

    def explain(self, worker_id: str) -> None:
        """Remember an instance whose end needs no further word."""
        _remember(self.explained, worker_id)


class Notebook:
    """The notes of every TaskService."""

    def __init__(self, client: Callable[[Key], ServiceClient]) -> None:
        self._client = client
        self._notes: dict[Key, Notes] = {}

    def of(self, key: Key) -> Notes:
        """The notes about a TaskService."""
        if key not in self._notes:
            self._notes[key] = Notes(self._client(key))
        return self._notes[key]

    async def forget(self, key: Key) -> None:
        """Drop the notes of a TaskService that is gone."""
        notes = self._notes.pop(key, None)
        if notes:
            await notes.service.close()

    async def close(self) -> None:
        """Close every connection."""
        for key in list(self._notes):
            await self.forget(key)


def _remember(known: dict[str, None], *items: str) -> None:
    known.update(dict.fromkeys(items))
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
