"""Metrics with labels that callers choose."""

from hypothesis import given
from hypothesis import strategies as st

from task_service.telemetry.metrics import OTHER, BoundedNames


@given(st.lists(st.text()), st.integers(0, 5))
def test_number_of_series_is_bounded_for_any_labels(labels_used: list[str], most: int) -> None:
    names = BoundedNames(most)
    labels = {names.label(name) for name in labels_used}
    assert len(labels - {OTHER}) <= most
    assert len(labels) <= len(set(labels_used))
