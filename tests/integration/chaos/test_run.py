"""Small chaos run with a fixed seed, every kind of fault and three thousand tasks."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.__main__ import show
from tests.chaos.plan import KINDS
from tests.chaos.run import Size, run

SEED = 51_535
SIZE = Size(faults=16, tasks=3_000, pause_seconds=1.1)


def test_every_task_ends_once_despite_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = asyncio.run(run(SEED, SIZE, tmp_path))
    with capsys.disabled():
        show(report)
    assert report.broken == {}
    assert set(report.figures["faults"]) == set(KINDS)
    assert report.figures["attempts"]["lost unknown"], "a worker was lost while it had claims"
