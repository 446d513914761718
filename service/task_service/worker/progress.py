"""Telling the database how far the runs are: once a second the last word of each that has said
anything new.
"""

import asyncio

import structlog

from task_service.queue import results
from task_service.queue.results import ProgressReport
from task_service.store.database import Acquire, is_unavailable
from task_service.worker.runner import Run, Runner

EVERY_SECONDS = 1.0
log = structlog.get_logger(__name__)


class ProgressNotes:
    """The loop. What could not be sent is sent the next time, unless the run has ended or said
    something newer.
    """

    def __init__(self, acquire: Acquire, runner: Runner) -> None:
        self._acquire, self._runner = acquire, runner

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            runs = [
                run
                for run in self._runner.running
                if run.context.said is not None and not run.reported
            ]
            try:
                for worker_id in {run.worker_id for run in runs}:
                    await self._tell([run for run in runs if run.worker_id == worker_id])
            except Exception as error:
                log.warning(
                    "progress_waits",
                    runs=len(runs),
                    error=repr(error),
                    exc_info=not is_unavailable(error),
                )

    async def _tell(self, runs: list[Run]) -> None:
        words = [
            ProgressReport(run.claim.task_id, run.claim.fence, run.context.said)
            for run in runs
            if run.context.said
        ]
        async with self._acquire() as connection:
            noted = await results.record_progress(connection, runs[0].worker_id, words)
        for run, told in zip(runs, words, strict=True):
            if (told.task_id, told.fence) in noted and run.context.said is told.progress:
                run.context.said = None
