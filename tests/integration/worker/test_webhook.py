"""The `webhook` handler: requests, handling of responses, and the SSRF guard."""

import asyncio
import base64
import hashlib
import hmac
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import httpcore
import httpx
import orjson
import pytest
import pytest_asyncio

from task_service.worker.builtin.ssrf_guard import CheckedBackend, CheckedTransport
from task_service.worker.builtin.webhook import webhook
from task_service.worker.handlers import Discard
from tests.support.receiver import Answer, Receiver, receiver
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks
from tests.support.worker_runs import StartWorker, wait_for_end

pytestmark = pytest.mark.asyncio

Deliver = Callable[..., Awaitable[dict[str, Any]]]
SECRET = "a secret for tests"


@pytest.fixture
def target() -> Iterator[Receiver]:
    """Server that receives the requests."""
    with receiver() as server:
        yield server


@pytest_asyncio.fixture
async def deliver(
    database: str, connection: asyncpg.Connection, start_worker: StartWorker
) -> Deliver:
    """Return a function that runs a webhook task and returns its final run, with all errors."""

    async def run(payload: Any, *, max_attempts: int = 3, **settings: Any) -> dict[str, Any]:
        values: dict[str, Any] = {"webhook_secret": SECRET, "webhook_allow_private": True}
        values |= settings
        await start_worker(webhook(settings_for(database, **values)), **values)
        [task] = await add_tasks(
            connection, handler="webhook", payload=payload, max_attempts=max_attempts
        )
        end = await wait_for_end(connection, task)
        end["result"] = end["result"] and orjson.loads(end["result"])
        end["errors"] = [
            r[0] for r in await connection.fetch("SELECT error FROM runs ORDER BY fence") if r[0]
        ]
        return end

    return run


async def test_request_contains_the_body_the_task_id_and_a_signature(
    deliver: Deliver, target: Receiver
) -> None:
    payload = {
        "url": f"{target.url}/hook?x=1",
        "method": "PUT",
        "headers": {"X-Team": "a"},
        "body": {"n": [1, "ü"]},
    }
    end = await deliver(payload)
    assert (end["outcome"], end["result"]) == ("completed", {"status": 200, "body": "thank you"})
    [sent] = target.received
    task, timestamp = str(end["task_id"]), sent.headers["webhook-timestamp"]
    assert (sent.method, sent.path, orjson.loads(sent.body)) == (
        "PUT",
        "/hook?x=1",
        {"n": [1, "ü"]},
    )
    assert (sent.headers["x-team"], sent.headers["content-type"]) == ("a", "application/json")
    assert sent.headers["webhook-id"] == sent.headers["idempotency-key"] == task
    assert abs(int(timestamp) - time.time()) < 60
    digest = hmac.new(
        SECRET.encode(), f"{task}.{timestamp}.".encode() + sent.body, hashlib.sha256
    ).digest()
    assert sent.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


async def test_text_body_is_sent_unchanged_and_unsigned_without_a_secret(
    deliver: Deliver, target: Receiver
) -> None:
    await deliver(
        {"url": target.url, "body": "a,b\n1,2", "headers": {"Content-Type": "text/csv"}},
        webhook_secret=None,
    )
    [sent] = target.received
    assert (sent.method, sent.body, sent.headers["content-type"]) == (
        "POST",
        b"a,b\n1,2",
        "text/csv",
    )
    assert "webhook-signature" not in sent.headers


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_temporary_error_status_is_retried_with_the_same_id(
    deliver: Deliver, target: Receiver, status: int
) -> None:
    target.answers.append(Answer(status, b"busy\x00\xff"))
    end = await deliver({"url": target.url})
    assert (end["outcome"], end["attempt"]) == ("completed", 2)
    assert end["errors"] == [f"answered {status}: busy\ufffd\ufffd"]
    assert len({sent.headers["webhook-id"] for sent in target.received}) == 1


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410, 422])
async def test_permanent_error_status_or_redirect_discards_the_task(
    deliver: Deliver, target: Receiver, status: int
) -> None:
    target.answers.append(Answer(status, b"no", {"location": f"{target.url}/elsewhere"}))
    end = await deliver({"url": target.url})
    assert (end["outcome"], end["attempt"], len(target.received)) == ("discarded", 1, 1)
    assert end["error"].startswith(f"answered {status}")


async def test_retry_after_is_respected_up_to_the_maximum_delay(
    deliver: Deliver, target: Receiver, connection: asyncpg.Connection
) -> None:
    target.answers.append(Answer(429, b"", {"retry-after": "86400"}))
    end = await deliver({"url": target.url}, retry_cap_seconds=1, retry_base_seconds=0.01)
    assert end["attempt"] == 2
    runs = await connection.fetch("SELECT * FROM runs ORDER BY fence")
    assert 0.9 <= (runs[1]["claimed_at"] - runs[0]["finished_at"]).total_seconds() < 10


async def test_unreachable_server_is_retried(deliver: Deliver, target: Receiver) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    end = await deliver({"url": f"http://127.0.0.1:{port}/"}, max_attempts=2)
    assert (end["outcome"], end["attempt"]) == ("failed", 2)
    assert "cannot be reached" in end["error"]


async def test_missing_response_times_out(deliver: Deliver, target: Receiver) -> None:
    hold = threading.Event()
    target.answers.append(Answer(hold=hold))
    end = await deliver({"url": target.url}, max_attempts=1, webhook_timeout_seconds=0.3)
    hold.set()
    assert (end["outcome"], end["error"]) == ("failed", "no answer from 127.0.0.1 within 0.3 s")


async def test_only_the_start_of_a_long_response_is_read(
    deliver: Deliver, target: Receiver
) -> None:
    target.answers.append(Answer(200, b"x" * 100_000, {"content-length": "1000000000"}))
    end = await deliver({"url": target.url}, webhook_timeout_seconds=5)
    assert end["result"] == {"status": 200, "body": "x" * 4096}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (None, "valid dictionary"),
        ({}, "url: Field required"),
        ({"url": "ftp://example.org/"}, "must begin with http:// or https://"),
        ({"url": "file:///etc/passwd"}, "must begin with http:// or https://"),
        ({"url": "http://"}, "must begin with http:// or https:// and a host"),
        ({"url": "http://me:secret@example.org/"}, "must hold no user or password"),
        ({"url": "http://example.org:99999/"}, "is no URL"),
        ({"url": "http://example.org/", "method": "CONNECT"}, "method"),
        (
            {"url": "http://example.org/", "headers": {"Host": "inside"}},
            "Host is set by the service",
        ),
        (
            {"url": "http://example.org/", "headers": {"webhook-signature": "v1,"}},
            "is set by the service",
        ),
        ({"url": "http://example.org/", "headers": {"X": "a\r\nHost: inside"}}, "is no header"),
        ({"url": "http://example.org/", "verify": False}, "verify: Extra inputs"),
    ],
)
async def test_invalid_payload_is_discarded_with_the_reason(
    deliver: Deliver, payload: Any, message: str
) -> None:
    end = await deliver(payload)
    assert (end["outcome"], end["attempt"]) == ("discarded", 1)
    assert message in end["error"]
    assert "secret" not in end["error"]


PRIVATE_URLS = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::1]:{port}/",
    "http://[::]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[fe80::1]:{port}/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://168.63.129.16/machine",
    "http://100.100.100.200/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://224.0.0.1/",
    "https://127.0.0.1:{port}/",
]


async def test_private_local_and_metadata_addresses_are_rejected_in_every_notation(
    target: Receiver,
) -> None:
    port = target.url.rsplit(":", 1)[1]
    run = webhook(settings_for("postgresql://nowhere", webhook_allow_private=False)).function
    for pattern in PRIVATE_URLS:
        with pytest.raises(
            Discard,
            match=r"at a private, local or metadata address|is no URL: Invalid IPv4 address",
        ):
            await run(_context({"url": pattern.format(port=port)}))
    assert not target.received


async def test_rejected_address_is_not_retried(deliver: Deliver, target: Receiver) -> None:
    end = await deliver({"url": target.url}, webhook_allow_private=False)
    assert (end["outcome"], end["attempt"], target.received) == ("discarded", 1, [])
    assert "WEBHOOK_ALLOW_PRIVATE" in end["error"]


async def addresses_called(
    monkeypatch: pytest.MonkeyPatch, name: str, resolve: Callable[..., Any]
) -> list[str]:
    """Return the addresses to which the guard connects for a name; every connection fails."""
    called: list[str] = []

    class Recorder(httpcore.AnyIOBackend):
        async def connect_tcp(self, host: str, *_: Any, **__: Any) -> Any:
            called.append(host)
            raise httpcore.ConnectError("recorded")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    backend = CheckedBackend()
    backend._backend = Recorder()
    with pytest.raises(httpcore.ConnectError):
        await backend.connect_tcp(name, 443)
    return called


async def test_name_is_resolved_once_and_the_checked_address_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["93.184.215.14", "127.0.0.1"])  # successive answers of a malicious server
    asked: list[str] = []

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    called = await addresses_called(monkeypatch, "rebinding.example.org", resolve)
    assert (asked, called) == (["rebinding.example.org"], ["93.184.215.14"])


async def test_only_public_addresses_of_a_name_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(_: str, port: int, **__: Any) -> list[Any]:
        found = ["10.0.0.1", "93.184.215.14", "::1", "93.184.215.15"]
        return [(socket.AF_UNSPEC, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    called = await addresses_called(monkeypatch, "both.example.org", resolve)
    assert called == ["93.184.215.14", "93.184.215.15"]


async def test_transport_checks_the_address_of_each_connection(target: Receiver) -> None:
    transport = CheckedTransport(ssl.create_default_context())
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(Exception, match="private, local or metadata"):
            await client.get(target.url)


async def test_ipv6_address_is_called_when_allowed(deliver: Deliver) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    with receiver("::1") as target:
        end = await deliver({"url": target.url})
    assert end["result"]["status"] == 200


def _context(payload: Any) -> Any:
    """Return a context with the fields that the handler reads."""
    return SimpleNamespace(task_id=UUID(int=1), payload=payload)
