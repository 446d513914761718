"""The script of `helm test`: it waits for a Service whose addresses come late, and not for an answer that is wrong."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from task_service.embedded import free_port

SCRIPT = Path(__file__).parents[2] / "charts/task-service/files/test.py"


@contextmanager
def script(port: int) -> Iterator["subprocess.Popen[str]"]:
    """It runs, for a release without workers."""
    about = {"API_URL": f"http://127.0.0.1:{port}", "AUTH_MODE": "open", "QUEUE": "default", "WORKERS": "none"}
    command = [sys.executable, "-c", SCRIPT.read_text()]
    with subprocess.Popen(command, env=os.environ | about, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


@contextmanager
def answering(port: int, status: HTTPStatus) -> Iterator[None]:
    """Stands in for the API, which runs in the cluster's tests: here only when it answers matters, and with what."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_it_waits_for_a_service_whose_addresses_come_late() -> None:
    port = free_port()
    with script(port) as running:
        try:
            running.wait(1.5)  # long enough to have asked
        except subprocess.TimeoutExpired:
            with answering(port, HTTPStatus.OK):
                assert running.wait(60) == 0
        else:
            raise AssertionError(f"it did not wait: {running.stderr and running.stderr.read()}")


def test_an_answer_that_is_an_error_is_one_at_once() -> None:
    port = free_port()
    with answering(port, HTTPStatus.INTERNAL_SERVER_ERROR), script(port) as running:
        assert running.wait(60) == 1
        assert running.stderr is not None
        assert "GET /health: 500" in running.stderr.read()
