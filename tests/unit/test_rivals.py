"""Figures, plot and catalogue of the benchmark against other task queues."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bench.rivals.__main__ import interleave
from bench.rivals.board import Board
from bench.rivals.catalogue import CEILING, OURS, PEERS, PRODUCTS, Product
from bench.rivals.environments import LOCKS
from bench.rivals.figures import Figures, Measures, lines, percentile, summarised, write
from bench.rivals.plot import draw
from bench.rivals.processes import BenchError

ABOUT = {
    "cores": 2,
    "postgresql": "18.1",
    "at": "2026-01-01T00:00",
    "products": {"rq": {"durable": False}},
}


def drained(one: float, two: float) -> dict[str, object]:
    return {"1 worker, tasks/s": summarised([one]), "2 workers, tasks/s": summarised([two])}


class TestBoard:
    def test_board_sums_starts_of_processes_and_measures_waits_from_the_commit(
        self, tmp_path: Path
    ) -> None:
        board = Board.create(tmp_path / "board", 3)
        other = Board(tmp_path / "board", slot=1)
        board.commit(1)
        other.start(1)
        board.start(2)
        assert board.started() == 2
        assert [at > 0 for at in board.starts(0, 3)] == [False, True, True]
        (wait,) = board.waits(1, 1)
        assert 0 <= wait < 60_000

    def test_wait_is_in_milliseconds(self, tmp_path: Path) -> None:
        board = Board.create(tmp_path / "board", 1)
        board._view[-2:] = memoryview(bytes(16)).cast("q")
        board._view[-2], board._view[-1] = 1_000_000, 3_500_000
        assert board.waits(0, 1) == [2.5]


class TestFigures:
    def test_percentiles_cover_all_rounds_together(self) -> None:
        summary = summarised([[float(n) for n in range(100)], [1000.0] * 100])
        assert (summary["samples"], summary["p50"], summary["p99"], summary["max"]) == (
            200,
            99.0,
            1000.0,
            1000.0,
        )
        assert summary["p50 by round"] == [49.0, 1000.0]

    def test_percentile_is_a_measured_value(self) -> None:
        assert [percentile([1, 2, 3, 4, 5], part) for part in (0.01, 0.5, 0.99, 1.0)] == [
            1,
            3,
            5,
            5,
        ]

    def test_table_compares_our_rate_with_each_product(self) -> None:
        table = "\n".join(
            lines(
                {"drain": {OURS.name: drained(300, 500), "pgqueuer": drained(100, 200)}}, OURS.name
            )
        )
        assert "ours is 3.00 of it" in table
        assert "ours is 2.50 of it" in table

    def test_repeated_section_replaces_only_its_own_figures(self, tmp_path: Path) -> None:
        path = tmp_path / "results" / "rivals.json"
        write(path, ABOUT, {"drain": {"rq": 1}, "held": {"rq": 2}})
        assert write(path, ABOUT | {"cores": 4}, {"drain": {"oban": 3}})["sections"] == {
            "drain": {"about": ABOUT | {"cores": 4}, "oban": 3},
            "held": {"about": ABOUT, "rq": 2},
        }


class TestRounds:
    def test_products_alternate_and_a_failed_one_does_not_stop_others(self) -> None:
        turns: list[str] = []

        def rounds(name: str, number: int) -> Iterator[Measures]:
            for turn in range(number):
                turns.append(f"{name}{turn}")
                if name == "rq" and turn == 1:
                    raise BenchError("it hangs")
                yield {"rate": float(turn)}

        by_name = {product.name: product for product in PRODUCTS}
        numbers = {"celery": 1, "oban": 3, "rq": 3}
        chosen: dict[Product, Iterator[Measures]] = {
            by_name[n]: rounds(n, number) for n, number in numbers.items()
        }
        interleave("drain", chosen, figures := Figures())
        assert turns == ["celery0", "oban0", "rq0", "oban1", "rq1", "oban2"]
        summary = figures.summary()["drain"]
        assert summary["oban"]["rate"]["values"] == [0.0, 1.0, 2.0]
        assert summary["rq"] == {"rate": summarised([0.0]), "failed": "BenchError('it hangs')"}


class TestPlot:
    def test_plot_shows_measured_products_and_marks_non_durable_ones(self, tmp_path: Path) -> None:
        drain = {
            "about": ABOUT,
            OURS.name: drained(300, 500),
            CEILING.name: drained(400, 700),
            "rq": drained(5, 6),
        }
        latency = {
            "about": ABOUT,
            OURS.name: {"idle": summarised([[1.0, 2.0]])},
            "oban": {"failed": "why"},
        }
        draw({"drain": drain, "latency": latency}, tmp_path / "rivals.svg", OURS.name, CEILING.name)
        texts = [
            element.text
            for element in ET.parse(tmp_path / "rivals.svg").iter()
            if element.tag.endswith("text")
        ]
        assert {OURS.name, CEILING.name, "rq *", "500", "700"} <= set(texts)
        assert "oban" not in texts

    def test_no_plot_without_figures(self, tmp_path: Path) -> None:
        draw({}, tmp_path / "rivals.svg", OURS.name, CEILING.name)
        assert not (tmp_path / "rivals.svg").exists()


class TestCatalogue:
    def test_products_have_an_adaptor_and_peers_a_lock_with_hashes_without_urls(
        self,
    ) -> None:
        for product in PRODUCTS:
            assert find_spec(f"bench.rivals.adaptors.{product.adaptor}") is not None
        for peer in PEERS:
            lock = (LOCKS / f"{peer.requirements}.txt").read_text()
            assert "--hash=sha256:" in lock
            assert "://" not in lock

    def test_slow_product_gets_fewer_tasks(self) -> None:
        slow = next(product for product in PEERS if product.name == "rq")
        assert slow.tasks(100_000, seconds=4.0) == 2_000
        assert OURS.tasks(100_000, seconds=4.0) == 100_000
