"""For all tests."""

import gc


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later collection: on this heap a full one takes most of a second."""
    gc.collect()
    gc.freeze()
