"""Process-wide objects as dependencies of routes.

The dependencies are coroutines, because FastAPI would run plain functions in a thread.
"""

from datetime import datetime
from typing import Annotated, Protocol
from uuid import UUID

from fastapi import Depends, Request

from task_service.services.transactions import TransactionManager


class WorkerStatus(Protocol):
    """What service C's `/status` reports about the worker in the same process."""

    @property
    def instance_id(self) -> UUID | None:
        """Id of the worker; None while it is not registered."""
        ...

    @property
    def running_since(self) -> datetime:
        """Start time of the process."""
        ...

    @property
    def current_task_ids(self) -> list[UUID]:
        """Ids of the tasks that are running."""
        ...

    @property
    def completed(self) -> int:
        """Number of tasks completed since the start."""
        ...

    @property
    def failed(self) -> int:
        """Number of tasks failed since the start."""
        ...


async def get_transactions(request: Request) -> TransactionManager:
    """Return the process's transaction manager."""
    transactions: TransactionManager = request.app.state.transactions
    return transactions


async def get_local_worker(request: Request) -> WorkerStatus | None:
    """Return the worker in the same process; None when there is none."""
    worker: WorkerStatus | None = request.app.state.worker
    return worker


Transactions = Annotated[TransactionManager, Depends(get_transactions)]
LocalWorker = Annotated[WorkerStatus | None, Depends(get_local_worker)]
