"""What was measured: rates and waits by section, product and label, as a table and as JSON."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

PERCENTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
Measures: TypeAlias = Mapping[str, float | Sequence[float]]
"""One round of one product: by label a number, or the milliseconds of single tasks."""


class Figures:
    """Grows round by round."""

    def __init__(self) -> None:
        self._sections: dict[str, dict[str, dict[str, list[Any]]]] = {}
        self._failures: dict[str, dict[str, str]] = {}

    def add(self, section: str, product: str, measures: Measures) -> None:
        """Keep one round."""
        kept = self._sections.setdefault(section, {}).setdefault(product, {})
        for label, value in measures.items():
            kept.setdefault(label, []).append(value)

    def fail(self, section: str, product: str, why: str) -> None:
        """Keep that a product could not be measured here."""
        self._failures.setdefault(section, {})[product] = why

    def summary(self) -> dict[str, Any]:
        """By section, product and label, for JSON."""
        sections: dict[str, Any] = {
            section: {
                product: {label: summarised(values) for label, values in labels.items()}
                for product, labels in products.items()
            }
            for section, products in self._sections.items()
        }
        for section, failures in self._failures.items():
            for product, why in failures.items():
                sections.setdefault(section, {}).setdefault(product, {})["failed"] = why
        return sections


def summarised(values: list[Any]) -> dict[str, Any]:
    """Numbers with their median and spread; waits with their percentiles over all rounds, and those
    of each.

    >>> summarised([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0, 'values': [3.0, 1.0, 2.0]}
    >>> summarised([[1.0, 2.0], [4.0]])["max"]
    4.0
    """
    if not isinstance(values[0], Sequence):
        kept = [round(v, 3) for v in values]
        return {
            "median": statistics.median(kept),
            "min": min(kept),
            "max": max(kept),
            "values": kept,
        }
    rounds = [sorted(waits) for waits in values]
    together = sorted(wait for waits in rounds for wait in waits)
    whole = {name: round(percentile(together, part), 3) for name, part in PERCENTILES.items()}
    by_round = {
        f"{n} by round": [round(percentile(r, part), 3) for r in rounds]
        for n, part in PERCENTILES.items()
    }
    return {"samples": len(together), **whole, **by_round}


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below which so much of an ordered sequence lies.

    >>> percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 0.99)
    (2, 4)
    """
    return ordered[max(0, -int(-len(ordered) * part // 1) - 1)]


def lines(sections: Mapping[str, Any], ours: str) -> Iterator[str]:
    """A table for people: a group for each label, a line for each product, and how many times its
    rate ours is.
    """
    for section, products in sections.items():
        labels = dict.fromkeys(
            label for found in products.values() for label in found if label != "failed"
        )
        for label in labels:
            yield f"\n{section}: {label}"
            measured = {name: found[label] for name, found in products.items() if label in found}
            for name, figure in measured.items():
                yield f"  {name:14} {_shown(figure)}{_ratio(figure, measured.get(ours)) if name != ours else ''}"
        for name, found in products.items():
            if "failed" in found:
                yield f"\n{section}: {name} was not measured: {found['failed']}"


def _shown(figure: Mapping[str, Any]) -> str:
    if "median" in figure:
        digits = 0 if figure["max"] >= 100 else 2
        low, middle, high = (f"{figure[name]:,.{digits}f}" for name in ("min", "median", "max"))
        return f"{low:>10} {middle:>10} {high:>10}  (min median max of {len(figure['values'])})"
    low, middle, high = (f"{figure[name]:.2f}" for name in ("p50", "p99", "max"))
    return f"{low:>10} {middle:>10} {high:>10}  ms (p50 p99 max of {figure['samples']:,})"


def _ratio(figure: Mapping[str, Any], ours: Mapping[str, Any] | None) -> str:
    name = "median" if "median" in figure else "p50"
    if ours is None or not figure[name]:
        return ""
    return f"   ours is {ours[name] / figure[name]:.2f} of it"


def write(path: Path, about: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Put these sections into the file beside the ones of earlier runs, and return all of it."""
    kept: dict[str, Any] = json.loads(path.read_text())["sections"] if path.exists() else {}
    whole = {
        "sections": kept
        | {name: {"about": dict(about), **found} for name, found in sections.items()}
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return whole
