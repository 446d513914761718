"""For all tests."""

import gc
import signal

import pytest


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later collection: on this heap a full one takes most
    of a second.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionstart() -> None:
    """Let SIGTERM (a time limit) end the tests as Ctrl-C does: fixtures stop the servers that they
    started.
    """
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM", returncode=143))
