"""Tests of bench.worker: batches of every size, with and without eager tasks."""

import pytest
import uvloop

from bench.worker import LINES, microseconds, rows_of


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("count", [5, 1_005])
def test_each_variant_runs_all_tasks(line: str, count: int) -> None:
    assert uvloop.run(microseconds(LINES[line], rows_of(count))) > 0
