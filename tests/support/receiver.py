"""A server for what calls others: it keeps what it was sent, and answers what it was told."""

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    """One request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer; `hold` keeps it back until it is set."""

    status: int = 200
    body: bytes = b"thank you"
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None


class Receiver:
    """What came, and what to answer next: 200 when nothing is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[Received] = []
        self.answers: deque[Answer] = deque()


@contextmanager
def receiver(host: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    """A running receiver, on a port of its own unless told otherwise."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            it.received.append(Received(self.command, self.path, headers, body))
            answer = it.answers.popleft() if it.answers else Answer()
            if answer.hold is not None:
                answer.hold.wait()
            self.send_response(answer.status)
            for name, value in ({"content-length": str(len(answer.body))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - http.server's

        def log_message(self, format: str, *_: Any) -> None:
            """Say nothing."""

    server = Server((host, port), Handler)
    it = Receiver(f"http://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield it
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
