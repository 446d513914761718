"""The chaos run in small, with a seed that is always the same: each kind of fault, some thousand tasks."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.__main__ import show
from tests.chaos.plan import KINDS
from tests.chaos.run import Size, run

SEED = 51_535
SIZE = Size(faults=16, tasks=3_000, pause_seconds=1.1)


def test_whatever_happens_every_task_ends_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = asyncio.run(run(SEED, SIZE, tmp_path))
    with capsys.disabled():
        show(report)
    assert report.broken == {}
    assert set(report.figures["faults"]) == set(KINDS)
    assert report.figures["attempts"]["lost unknown"], "some worker was lost with what it held"
