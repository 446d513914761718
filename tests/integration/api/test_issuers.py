"""Tokens of trusted issuers as callers of the public API.

Their names and roles, and every way in which their tokens can be invalid.
"""

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.api.auth.jwks import AGAIN_SECONDS, MAX_AGE_SECONDS, KeySource
from task_service.api.auth.trusted_issuers import Trust
from task_service.queue.wakeups import Wakeups
from tests.support.problems import check_invalid_token, check_problem
from tests.support.secured_app import KEY, ME, SecuredApp, bearer
from tests.support.service_settings import settings_for
from tests.support.task_api import TASKS
from tests.support.tokens import TokenIssuer, unsigned_token, write_trust

pytestmark = pytest.mark.asyncio


COMPANY = "https://login.example.com"


def now() -> int:
    """Return the Unix time. Not a constant: modules are imported long before the last test runs."""
    return int(time.time())


ROLES = {
    "claim": "realm_access.roles",
    "values": {"staff": "editor", "ops": "operator", "boss": "admin"},
}


class Publisher:
    """Key set served over HTTP that counts requests and can return errors."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.uri = f"http://127.0.0.1:{server.server_address[1]}/keys"
        self.keys: list[dict[str, Any]] = []
        self.status, self.body, self.requests = 200, b"", 0

    def respond(self) -> tuple[int, bytes]:
        self.requests += 1
        return self.status, self.body or json.dumps({"keys": self.keys}).encode()


@contextmanager
def publishing() -> Iterator[Publisher]:
    """Run a real HTTP server with the key set of an identity provider."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = key_server.respond()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        key_server = Publisher(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield key_server
        server.shutdown()
        thread.join()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as publisher:
        yield publisher


class Clock:
    """Clock of the key source."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def company() -> TokenIssuer:
    return TokenIssuer("one", issuer=COMPANY)


@pytest_asyncio.fixture
async def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def trusting_app(
    database: str, engine: AsyncEngine, wakeups: Wakeups, tmp_path: Path, clock: Clock
) -> AsyncIterator[SecuredApp]:
    """Application whose trusted issuers are in `issuers.json` in the test's folder."""
    path = write_trust(tmp_path / "issuers.json")
    app = create_app(
        settings_for(database, secret_key=KEY, auth_mode="required", trusted_issuers_file=path),
        engine,
        wakeups,
    )
    object.__setattr__(app.state.authenticator, "trust", Trust(path, KeySource(clock)))
    yield SecuredApp(app)
    await app.state.connections.stop()


def entry(company: TokenIssuer, **fields: Any) -> dict[str, Any]:
    """Return the company's entry: any subject, with roles from a claim."""
    values = company.entry(subject=None, role=None, roles=ROLES) | fields
    return {name: value for name, value in values.items() if value is not None}


def claims(*roles: str, **more: Any) -> dict[str, Any]:
    return {"sub": "ada@example.com", "realm_access": {"roles": list(roles)}} | more


async def test_token_gives_a_name_and_the_highest_of_its_roles(
    trusting_app: SecuredApp, tmp_path: Path, company: TokenIssuer, connection: asyncpg.Connection
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company))
    async with trusting_app.client(company.token(**claims("visitor", "staff", "ops"))) as client:
        me = (await client.get(ME)).json()
        assert (me["id"], me["username"], me["role"], me["kind"]) == (
            None,
            "oidc:ada@example.com",
            "operator",
            "issuer",
        )
        task = await client.post(TASKS, json={"title": "Ring"})
        assert task.json()["created_by"] == "oidc:ada@example.com"
        check_problem(await client.get("/api/v1/users"), 403, "forbidden")
        password = {"current_password": "a", "new_password": "another horse battery"}
        check_problem(await client.post("/api/v1/auth/password", json=password), 409, "conflict")
        assert (
            await client.post("/api/v1/auth/logout")
        ).status_code == 204  # there is no session to end
        assert (await client.get(ME)).status_code == 200
    assert (
        await connection.fetchval("SELECT changed_by FROM task_history") == "oidc:ada@example.com"
    )


async def test_token_without_a_role_is_forbidden_unless_there_is_a_default(
    trusting_app: SecuredApp, tmp_path: Path, company: TokenIssuer
) -> None:
    for claims_given in (
        {},
        {"realm_access": "staff"},
        {"realm_access": {"roles": ["Staff", 7, None]}},
    ):
        write_trust(tmp_path / "issuers.json", entry(company))
        async with trusting_app.client(company.token(sub="eve", **claims_given)) as client:
            problem = check_problem(await client.get(TASKS), 403, "forbidden")
            assert "role" in problem["detail"]
            write_trust(
                tmp_path / "issuers.json", entry(company, roles=ROLES | {"default": "viewer"})
            )
            assert (await client.get(TASKS)).status_code == 200
            missing = check_problem(await client.post(TASKS, json={"title": "x"}), 403, "forbidden")
            assert (missing["role"], missing["needs"], missing["permission"]) == (
                "viewer",
                "editor",
                "create_tasks",
            )
            assert "editor" in missing["detail"]


async def test_names_come_from_the_configured_claim(
    trusting_app: SecuredApp, tmp_path: Path, company: TokenIssuer
) -> None:
    named = entry(company, name_claim="preferred_username", name_prefix="acme/")
    write_trust(tmp_path / "issuers.json", named)
    for claims_given, name in (
        ({"preferred_username": "ada"}, "acme/ada"),
        ({}, "acme/ada@example.com"),
        ({"preferred_username": ["x"]}, "acme/ada@example.com"),
        ({"preferred_username": "x" * 500}, ("acme/" + "x" * 500)[:200]),
    ):
        async with trusting_app.client(company.token(**claims("staff", **claims_given))) as client:
            assert (await client.get(ME)).json()["username"] == name


async def test_token_does_not_identify_a_local_user_of_the_same_name(
    trusting_app: SecuredApp, tmp_path: Path, company: TokenIssuer
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company))
    ada = await trusting_app.register("ada")
    async with trusting_app.client(trusting_app.token(ada)) as client:
        task = (await client.post(TASKS, json={"title": "Mine"})).json()
    async with trusting_app.client(company.token(**claims("staff", sub="ada"))) as client:
        response = await client.patch(f"{TASKS}/{task['id']}", json={"title": "Yours"})
        assert check_problem(response, 403, "forbidden")["needs"] == "operator"


async def test_service_account_of_the_operator_has_its_role_in_the_public_api(
    trusting_app: SecuredApp, tmp_path: Path
) -> None:
    cluster = TokenIssuer()
    write_trust(tmp_path / "issuers.json", cluster.entry())
    async with trusting_app.client(cluster.token()) as client:
        assert (await client.get(ME)).json()["role"] == "operator"
    async with trusting_app.client(
        cluster.token(sub="system:serviceaccount:other:default")
    ) as client:
        check_problem(await client.get(ME), 403, "forbidden")


def invalid_tokens(company: TokenIssuer) -> dict[str, str]:
    """Return invalid tokens of a trusted issuer by the reason that they are invalid."""
    good = claims("boss")
    unsigned = {"iss": COMPANY, "aud": ["task-service/tenant/demo"], "exp": now() + 600, **good}
    pem = company.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, _, signature = company.token(**good).split(".")
    other_body = company.token(**claims("boss", sub="eve")).split(".")[1]
    return {
        "another audience": company.token(**good, aud=["another-service"]),
        "no audience": company.token(**good, aud=None),
        "expired": company.token(**good, exp=now() - 60),
        "no expiry": company.token(**good, exp=None),
        "not valid yet": company.token(**good, nbf=now() + 600),
        "no subject": company.token(**(good | {"sub": None})),
        "alg none": unsigned_token(unsigned, kid="one"),
        "alg none with a signature": f"{unsigned_token(unsigned, kid='one')}{signature}",
        "HS256 signed with the public key": hs256(unsigned, pem),
        "HS256 signed with SECRET_KEY": jwt.encode(unsigned, KEY, "HS256", headers={"kid": "one"}),
        "unknown key id": company.token(**good, headers={"kid": "two"}),
        "no key id": company.token(**good, headers={"kid": None}),
        "another key with this id": TokenIssuer("one", issuer=COMPANY).token(**good),
        "another body": f"{head}.{other_body}.{signature}",
        "a key in the token": company.token(**good, headers={"kid": "x", "jwk": company.jwk}),
        "too long": company.token(**good, filler="x" * 9000),
    }


def hs256(content: dict[str, Any], key: bytes) -> str:
    """Sign a token with HMAC and a public key; PyJWT refuses to do that."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode())
    signed = head + b"." + part(json.dumps(content).encode())
    return (signed + b"." + part(hmac.digest(key, signed, "sha256"))).decode()


@pytest.mark.parametrize("published", [False, True], ids=["keys in the file", "keys at an address"])
async def test_every_invalid_token_of_a_trusted_issuer_is_rejected(
    trusting_app: SecuredApp,
    tmp_path: Path,
    company: TokenIssuer,
    publisher: Publisher,
    *,
    published: bool,
) -> None:
    publisher.keys = [company.jwk]
    by_address = {"jwks": None, "jwks_uri": publisher.uri}
    write_trust(tmp_path / "issuers.json", entry(company, **(by_address if published else {})))
    async with trusting_app.client() as client:
        for what, token in invalid_tokens(company).items():
            response = await client.get(ME, headers=bearer(token))
            assert response.status_code == 401, (what, response.text)
            check_invalid_token(response)
        other_issuer = TokenIssuer("one", issuer="https://elsewhere.example.com").token(
            **claims("boss")
        )
        check_invalid_token(await client.get(ME, headers=bearer(other_issuer)))
        good = await client.get(ME, headers=bearer(company.token(**claims("boss"))))
        assert good.json()["role"] == "admin"


async def test_key_set_is_fetched_once_and_refreshed_for_a_new_key(
    trusting_app: SecuredApp,
    tmp_path: Path,
    company: TokenIssuer,
    publisher: Publisher,
    clock: Clock,
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company, jwks=None, jwks_uri=publisher.uri))
    publisher.keys = [{"kty": "OKP", "kid": "odd"}, company.jwk]
    new = TokenIssuer("two", "ES256", issuer=COMPANY)
    async with trusting_app.client() as client:

        async def ask(issuer: TokenIssuer) -> httpx.Response:
            return await client.get(ME, headers=bearer(issuer.token(**claims("staff"))))

        responses = await asyncio.gather(*(ask(company) for _ in range(10)))
        assert [response.status_code for response in responses] == [200] * 10
        assert publisher.requests == 1
        for _ in range(5):
            check_invalid_token(await ask(new))
        assert publisher.requests == 1  # unknown keys do not cause a request each time
        publisher.keys = [company.jwk, new.jwk]
        clock.now += AGAIN_SECONDS + 1
        assert (await ask(new)).status_code == 200
        assert (await ask(company)).status_code == 200
        assert publisher.requests == 2
        publisher.keys = [new.jwk]  # the issuer has withdrawn the first key
        assert (await ask(company)).status_code == 200
        clock.now += MAX_AGE_SECONDS + 1
        check_invalid_token(await ask(company))
        assert (await ask(new)).status_code == 200


async def test_known_keys_remain_when_the_key_set_cannot_be_fetched(
    trusting_app: SecuredApp,
    tmp_path: Path,
    company: TokenIssuer,
    publisher: Publisher,
    clock: Clock,
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company, jwks=None, jwks_uri=publisher.uri))
    token = company.token(**claims("staff"))
    async with trusting_app.client(token) as client:
        publisher.status = 500
        check_invalid_token(await client.get(ME))
        for status, body in (
            (302, b""),
            (200, b"<html>"),
            (200, b"x" * 2_000_000),
            (200, b'{"keys": 7}'),
        ):
            publisher.status, publisher.body = status, body
            clock.now += AGAIN_SECONDS + 1
            check_invalid_token(await client.get(ME))
        publisher.status, publisher.body, publisher.keys = 200, b"", [company.jwk]
        clock.now += AGAIN_SECONDS + 1
        assert (await client.get(ME)).status_code == 200
        publisher.status = 503
        clock.now += MAX_AGE_SECONDS + 1
        requests = publisher.requests
        assert (await client.get(ME)).status_code == 200
        assert publisher.requests == requests + 1


async def test_issuer_that_is_removed_from_the_file_is_rejected_at_once(
    trusting_app: SecuredApp, tmp_path: Path, company: TokenIssuer
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company))
    async with trusting_app.client(company.token(**claims("boss"))) as client:
        assert (await client.get(TASKS)).status_code == 200
        write_trust(tmp_path / "issuers.json")
        check_invalid_token(await client.get(TASKS))


@pytest.mark.parametrize(
    "broken",
    [
        {"jwks_uri": "http://login.example.com/keys", "jwks": None},
        {"jwks_uri": "ftp://127.0.0.1/keys", "jwks": None},
        {"jwks_uri": "https://login.example.com/keys"},
        {"jwks": None},
        {"roles": None},
        {"role": "editor"},
        {"roles": {"claim": "x", "values": {"staff": "king"}}},
        {"roles": {"claim": "x", "values": {}, "typo": 1}},
    ],
    ids=str,
)
async def test_invalid_entry_trusts_no_token(
    trusting_app: SecuredApp, tmp_path: Path, company: TokenIssuer, broken: dict[str, Any]
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company, **broken))
    async with trusting_app.client(company.token(**claims("boss"))) as client:
        check_invalid_token(await client.get(TASKS))
