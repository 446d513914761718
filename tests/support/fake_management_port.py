"""Fake of the service's management port, for the pods of every TaskService.

Pods of the fake kubelet run no processes, so this server answers the operator's requests (workers,
releases, drains) over real HTTP. It returns the objects that a test stored, identifies the
TaskService by the audience of the token, as the service does, and records what it received. The
end-to-end tests exercise the real port.
"""

import base64
import json
import threading
from collections import defaultdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Key = tuple[str, str]
Object = dict[str, Any]


class FakeManagementPort:
    """Server that runs inside its `with` block, by default on a free port of 127.0.0.1."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.workers: dict[Key, list[Object]] = defaultdict(list)
        self.queue: dict[Key, Object] = {}
        self.releases: list[tuple[Key, str, str]] = []
        """TaskService, worker id and reason of each release."""
        self.drains: list[tuple[Key, str]] = []
        self.tokens: list[Object] = []
        """Claims of the tokens of all requests."""
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> "FakeManagementPort":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for_release(self, key: Key, worker_id: str, seconds: float = 20) -> str:
        """Wait until the operator releases the worker, and return its reason."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._reason(key, worker_id), seconds)
        assert done, (
            f"{worker_id} of {key} was not released within {seconds} s; released: {self.releases}"
        )
        return str(done)

    def wait_for_drain(self, key: Key, worker_id: str, seconds: float = 20) -> None:
        """Wait until the operator drains the worker."""
        with self._changed:
            done = self._changed.wait_for(lambda: (key, worker_id) in self.drains, seconds)
        assert done, (
            f"{worker_id} of {key} was not drained within {seconds} s; drained: {self.drains}"
        )

    def _reason(self, key: Key, worker_id: str) -> str:
        return next(
            (reason for of, worker, reason in self.releases if (of, worker) == (key, worker_id)), ""
        )

    def _worker(self, key: Key, worker_id: str) -> Object | None:
        return next((worker for worker in self.workers[key] if worker["id"] == worker_id), None)

    def respond(self, key: Key, method: str, path: str, body: Object) -> tuple[int, Object]:
        """Return the status and JSON of the response to one request."""
        with self._changed:
            if (method, path) == ("GET", "/internal/workers"):
                return HTTPStatus.OK, {"at": "2026-01-01T00:00:00Z", "workers": self.workers[key]}
            if (method, path) == ("GET", "/internal/queue"):
                return HTTPStatus.OK, self.queue.get(key, {})
            if (method, path) == ("GET", "/internal/version"):
                return HTTPStatus.OK, {
                    "version": "1",
                    "revision": 1,
                    "code_revision": 1,
                    "needs": 1,
                    "oldest_code": 1,
                }
            worker_id, _, action = path.removeprefix("/internal/workers/").partition("/")
            worker = self._worker(key, worker_id)
            if worker is None:
                return HTTPStatus.NOT_FOUND, {"code": "worker_not_found"}
            if action == "release":
                return HTTPStatus.OK, self._release(key, worker, body)
            worker["state"] = "draining"
            self.drains.append((key, worker_id))
            self._changed.notify_all()
            return HTTPStatus.OK, {"worker_id": worker_id, "state": "draining"}

    def _release(self, key: Key, worker: Object, body: Object) -> Object:
        was_dead, tasks = worker["state"] == "dead", worker["running"]
        worker |= {"state": "dead", "running": 0}
        counts = (
            {"released": 0, "explained": tasks} if was_dead else {"released": tasks, "explained": 0}
        )
        self.releases.append((key, worker["id"], body["reason"]))
        self._changed.notify_all()
        return {"worker_id": worker["id"], **counts, "failed": 0, "already_dead": was_dead}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        port = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                claims = _claims(self.headers["Authorization"])
                port.tokens.append(claims)
                _, namespace, name = claims["aud"][0].split("/")
                status, response = port.respond(
                    (namespace, name), self.command, self.path, json.loads(body) if body else {}
                )
                text = json.dumps(response).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = _serve  # noqa: N815 - the names that http.server calls

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        return Handler


def _claims(authorization: str) -> Object:
    """Return a token's claims without verification, which the tests of the service cover."""
    text = authorization.removeprefix("Bearer ").split(".")[1]
    claims: Object = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return claims
