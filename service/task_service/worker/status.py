"""What a process that has a worker tells about it."""

from datetime import datetime
from typing import Protocol
from uuid import UUID


class WorkerStatus(Protocol):
    """The worker of this process, as `/status` shows it."""

    running_since: datetime

    @property
    def instance_id(self) -> UUID | None:
        """Its id; None while it is not registered."""

    @property
    def current_task_ids(self) -> list[UUID]:
        """What it runs now."""

    @property
    def completed(self) -> int:
        """Tasks completed since the start."""

    @property
    def failed(self) -> int:
        """Tasks failed since the start."""
