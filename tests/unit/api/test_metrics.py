"""Metrics whose labels callers choose."""

from hypothesis import given
from hypothesis import strategies as st

from task_service.telemetry.metrics import OTHER, BoundedNames


@given(st.lists(st.text()), st.integers(0, 5))
def test_however_many_names_callers_invent_the_series_are_few(
    invented: list[str], most: int
) -> None:
    names = BoundedNames(most)
    labels = {names.label(name) for name in invented}
    assert len(labels - {OTHER}) <= most
    assert len(labels) <= len(set(invented))
