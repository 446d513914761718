"""State that the operator keeps about each TaskService between two passes.

It is in memory only: losing it costs a repeated request, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from task_operator.kube.kinds import Key, Manifest
from task_operator.management.service_client import ServiceClient

MAX_REMEMBERED = 1000


@dataclass(frozen=True)
class ScaleDown:
    """A scale-down in progress: the pods that go, and the deadline for their running tasks."""

    replicas: int
    pod_uids: frozenset[str]
    deadline: float


@dataclass
class ResourceState:
    """State of one TaskService."""

    service: ServiceClient
    scale_down: ScaleDown | None = None
    retired: dict[str, None] = field(default_factory=dict)
    """UIDs of the pods that scale-downs removed, oldest first."""
    explained: dict[str, None] = field(default_factory=dict)
    """Ids of dead instances whose reason the service knows, oldest first."""
    stranded: set[str] = field(default_factory=set)
    """UIDs of the pods that the last check found drained, but still running."""
    last_rescue: Manifest | None = None
    figures: Manifest | None = None
    figures_read_at: float = float("-inf")
    figures_template: str = ""
    """The workers' pod template at the time when the figures were read."""
    schema_revision: int | None = None
    applied: dict[tuple[str, str], str] = field(default_factory=dict)
    """Hash of the last applied manifest, by kind and name."""
    unverifiable: dict[str, frozenset[str]] = field(default_factory=dict)
    """Fields that we did not own even right after an apply, by UID.

    The API server normalizes such fields away, so they are not drift.
    """
    reported: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Status and reason for which the last event was emitted, by condition type."""
    pod_event_at: float | None = None
    """Time of the oldest pod event that no check has handled yet."""

    def retire(self, pod_uids: frozenset[str]) -> None:
        """Remember pods that a scale-down removes."""
        _remember(self.retired, *pod_uids)

    def explain(self, worker_id: str) -> None:
        """Remember a dead instance about which the service needs no further report."""
        _remember(self.explained, worker_id)


class StateStore:
    """The state of every TaskService."""

    def __init__(self, connect: Callable[[Key], ServiceClient]) -> None:
        """`connect` creates the client for the pods of one TaskService."""
        self._connect = connect
        self._states: dict[Key, ResourceState] = {}

    def get(self, key: Key) -> ResourceState:
        """Return the state of a TaskService; create it on the first call."""
        if key not in self._states:
            self._states[key] = ResourceState(self._connect(key))
        return self._states[key]

    async def forget(self, key: Key) -> None:
        """Drop the state of a deleted TaskService and close its connections."""
        state = self._states.pop(key, None)
        if state:
            await state.service.close()

    async def close(self) -> None:
        """Drop every state and close every connection."""
        for key in list(self._states):
            await self.forget(key)


def _remember(items: dict[str, None], *new: str) -> None:
    items.update(dict.fromkeys(new))
    while len(items) > MAX_REMEMBERED:
        del items[next(iter(items))]
