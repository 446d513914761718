"""The script of `helm test`: it waits for a Service whose addresses come late, and not for an
answer that is wrong.

A receiver stands in for the API, which runs in the cluster's tests: here only when it answers
matters, and with what.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from task_service.embedded import free_port
from tests.support.receiver import Answer, receiver

SCRIPT = Path(__file__).parents[2] / "charts/task-service/files/test.py"


@contextmanager
def script(url: str) -> Iterator["subprocess.Popen[str]"]:
    """It runs, for a release without workers."""
    about = {"API_URL": url, "AUTH_MODE": "open", "QUEUE": "default", "WORKERS": "none"}
    command = [sys.executable, "-c", SCRIPT.read_text()]
    with subprocess.Popen(
        command, env=os.environ | about, stderr=subprocess.PIPE, text=True
    ) as running:
        yield running
        running.kill()


def test_it_waits_for_a_service_whose_addresses_come_late() -> None:
    port = free_port()
    with script(f"http://127.0.0.1:{port}") as running:
        try:
            running.wait(1.5)  # long enough to have asked
        except subprocess.TimeoutExpired:
            with receiver(port=port) as api:
                api.answers.append(Answer(body=b"{}"))
                assert running.wait(60) == 0
        else:
            raise AssertionError(f"it did not wait: {running.stderr and running.stderr.read()}")


def test_an_answer_that_is_an_error_is_one_at_once() -> None:
    with receiver() as api:
        api.answers.append(Answer(500))
        with script(api.url) as running:
            assert running.wait(60) == 1
            assert running.stderr is not None
            assert "GET /health: 500" in running.stderr.read()
