"""The benchmark against other task queues runs this product and its baseline."""

from pathlib import Path

import pytest

from bench.rivals.catalogue import CEILING, OURS, Product
from bench.rivals.processes import BenchError
from bench.rivals.servers import Database
from bench.rivals.stage import WARM_UP, Stage


@pytest.mark.parametrize("product", [OURS, CEILING], ids=lambda product: product.adaptor)
def test_all_tasks_are_inserted_run_and_timed(
    database: str, tmp_path: Path, product: Product
) -> None:
    place = Database(product, database)
    stage = Stage(place, tmp_path)
    assert stage.fill(700) > 0
    assert place.unfinished() == 700
    place.settle()
    assert stage.drain(700) > 0
    assert place.query("SELECT count(*) FROM runs WHERE final AND outcome = 'completed'") == 700
    assert len(stage.idle_waits(3)) == 3
    assert (
        place.query("SELECT count(*) FROM task_history WHERE new_status = 'pending'")
        == 700 + WARM_UP + 3
    )
    place.connection.close()


def test_drain_fails_when_a_task_did_not_run(database: str, tmp_path: Path) -> None:
    stage = Stage(place := Database(CEILING, database), tmp_path)
    stage.fill(2)
    stage.fill(2)  # the same numbers: four tasks, of which the board sees only two
    with pytest.raises(BenchError, match="2 of 4 tasks never ran"):
        stage.drain(4)
    place.connection.close()
