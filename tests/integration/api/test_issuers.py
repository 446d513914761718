"""Bearers whom a trusted issuer vouches for, as callers of the public API.

Who they are, what they may do, and every way in which their tokens can be wrong.
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
from tests.integration.api.test_bad_input import check_problem
from tests.support.people import KEY, People, bearer
from tests.support.service_settings import settings_for
from tests.support.tokens import TokenIssuer, write_trust

pytestmark = pytest.mark.asyncio
ME = "/api/v1/auth/me"
TASKS = "/api/v1/tasks"
COMPANY = "https://login.example.com"


def now() -> int:
    """Seconds since 1970. Not a constant: modules are imported long before the last test runs."""
    return int(time.time())


ROLES = {
    "claim": "realm_access.roles",
    "values": {"staff": "editor", "ops": "operator", "boss": "admin"},
}


class Publisher:
    """Serves a key set over HTTP, counts how often it was asked, and can break."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.uri = f"http://127.0.0.1:{server.server_address[1]}/keys"
        self.keys: list[dict[str, Any]] = []
        self.status, self.body, self.asked = 200, b"", 0

    def answer(self) -> tuple[int, bytes]:
        self.asked += 1
        return self.status, self.body or json.dumps({"keys": self.keys}).encode()


@contextmanager
def publishing() -> Iterator[Publisher]:
    """An identity provider's address of keys: a real HTTP server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = publisher.answer()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        publisher = Publisher(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield publisher
        server.shutdown()
        thread.join()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as found:
        yield found


class Clock:
    """The time that the key source goes by."""

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
async def trusting(
    database: str, engine: AsyncEngine, wakeups: Wakeups, tmp_path: Path, clock: Clock
) -> AsyncIterator[People]:
    """An application whose file of issuers is `issuers.json` in the test's folder."""
    path = write_trust(tmp_path / "issuers.json")
    app = create_app(
        settings_for(database, secret_key=KEY, auth_mode="required", trusted_issuers_file=path),
        engine,
        wakeups,
    )
    object.__setattr__(app.state.authenticator, "trust", Trust(path, KeySource(clock)))
    yield People(app)
    await app.state.connections.stop()


def entry(company: TokenIssuer, **fields: Any) -> dict[str, Any]:
    """The company's entry: anybody of theirs, by the roles in a claim."""
    found = company.entry(subject=None, role=None, roles=ROLES) | fields
    return {name: value for name, value in found.items() if value is not None}


def claims(*roles: str, **more: Any) -> dict[str, Any]:
    return {"sub": "ada@example.com", "realm_access": {"roles": list(roles)}} | more


def check_refused(answer: httpx.Response) -> str:
    """Refused because of the token that was sent; what was said."""
    problem = check_problem(answer, 401, "invalid_token")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    return str(problem["detail"])


async def test_a_bearer_of_the_company_is_known_by_name_and_has_the_highest_role_of_theirs(
    trusting: People, tmp_path: Path, company: TokenIssuer, connection: asyncpg.Connection
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company))
    async with trusting.speaking(company.token(**claims("visitor", "staff", "ops"))) as client:
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
        ).status_code == 204  # there is no log-in of ours to end
        assert (await client.get(ME)).status_code == 200
    assert (
        await connection.fetchval("SELECT changed_by FROM task_history") == "oidc:ada@example.com"
    )


async def test_a_bearer_without_a_role_is_forbidden_unless_there_is_a_default(
    trusting: People, tmp_path: Path, company: TokenIssuer
) -> None:
    for given in ({}, {"realm_access": "staff"}, {"realm_access": {"roles": ["Staff", 7, None]}}):
        write_trust(tmp_path / "issuers.json", entry(company))
        async with trusting.speaking(company.token(sub="eve", **given)) as client:
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


async def test_names_come_from_the_claim_that_the_file_names(
    trusting: People, tmp_path: Path, company: TokenIssuer
) -> None:
    named = entry(company, name_claim="preferred_username", name_prefix="acme/")
    write_trust(tmp_path / "issuers.json", named)
    for given, name in (
        ({"preferred_username": "ada"}, "acme/ada"),
        ({}, "acme/ada@example.com"),
        ({"preferred_username": ["x"]}, "acme/ada@example.com"),
        ({"preferred_username": "x" * 500}, ("acme/" + "x" * 500)[:200]),
    ):
        async with trusting.speaking(company.token(**claims("staff", **given))) as client:
            assert (await client.get(ME)).json()["username"] == name


async def test_a_bearer_is_not_the_user_of_the_same_name(
    trusting: People, tmp_path: Path, company: TokenIssuer
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company))
    ada = await trusting.register("ada")
    async with trusting.speaking(trusting.token(ada)) as client:
        task = (await client.post(TASKS, json={"title": "Mine"})).json()
    async with trusting.speaking(company.token(**claims("staff", sub="ada"))) as client:
        answer = await client.patch(f"{TASKS}/{task['id']}", json={"title": "Yours"})
        assert check_problem(answer, 403, "forbidden")["needs"] == "operator"


async def test_the_operators_account_has_its_role_in_the_public_api_too(
    trusting: People, tmp_path: Path
) -> None:
    cluster = TokenIssuer()
    write_trust(tmp_path / "issuers.json", cluster.entry())
    async with trusting.speaking(cluster.token()) as client:
        assert (await client.get(ME)).json()["role"] == "operator"
    async with trusting.speaking(
        cluster.token(sub="system:serviceaccount:other:default")
    ) as client:
        check_problem(await client.get(ME), 403, "forbidden")


def wrong_tokens(company: TokenIssuer) -> dict[str, str]:
    """Tokens of an issuer that is trusted, each wrong in its own way."""
    good = claims("boss")
    unsigned = {"iss": COMPANY, "aud": ["task-service/tenant/demo"], "exp": now() + 600, **good}
    pem = company.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, _, signature = company.token(**good).split(".")
    other_body = company.token(**claims("boss", sub="eve")).split(".")[1]
    return {
        "another audience": company.token(**good, aud=["another-service"]),
        "no audience": company.token(**good, aud=None),
        "expired": company.token(**good, exp=now() - 60),
        "without an end": company.token(**good, exp=None),
        "not yet": company.token(**good, nbf=now() + 600),
        "nobody's": company.token(**(good | {"sub": None})),
        "alg none": jwt.encode(unsigned, None, "none", headers={"kid": "one"}),
        "alg none with a signature": f"{jwt.encode(unsigned, None, 'none', headers={'kid': 'one'})}{signature}",
        "HS256 signed with the public key": hs256(unsigned, pem),
        "HS256 signed with our own": jwt.encode(unsigned, KEY, "HS256", headers={"kid": "one"}),
        "an unknown key": company.token(**good, headers={"kid": "two"}),
        "no key": company.token(**good, headers={"kid": None}),
        "another's key of that id": TokenIssuer("one", issuer=COMPANY).token(**good),
        "another body": f"{head}.{other_body}.{signature}",
        "a key in the token": company.token(**good, headers={"kid": "x", "jwk": company.jwk}),
        "too long": company.token(**good, filler="x" * 9000),
    }


def hs256(content: dict[str, Any], key: bytes) -> str:
    """A token signed with HMAC by a public key, by hand, since PyJWT refuses to make one."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode())
    signed = head + b"." + part(json.dumps(content).encode())
    return (signed + b"." + part(hmac.digest(key, signed, "sha256"))).decode()


@pytest.mark.parametrize("published", [False, True], ids=["keys in the file", "keys at an address"])
async def test_every_wrong_token_of_a_trusted_issuer_is_refused(
    trusting: People, tmp_path: Path, company: TokenIssuer, publisher: Publisher, *, published: bool
) -> None:
    publisher.keys = [company.jwk]
    by_address = {"jwks": None, "jwks_uri": publisher.uri}
    write_trust(tmp_path / "issuers.json", entry(company, **(by_address if published else {})))
    async with trusting.speaking() as client:
        for what, token in wrong_tokens(company).items():
            answer = await client.get(ME, headers=bearer(token))
            assert answer.status_code == 401, (what, answer.text)
            check_refused(answer)
        foreign = TokenIssuer("one", issuer="https://elsewhere.example.com").token(**claims("boss"))
        check_refused(await client.get(ME, headers=bearer(foreign)))
        good = await client.get(ME, headers=bearer(company.token(**claims("boss"))))
        assert good.json()["role"] == "admin"


async def test_keys_at_an_address_are_fetched_once_and_a_new_one_is_found(
    trusting: People, tmp_path: Path, company: TokenIssuer, publisher: Publisher, clock: Clock
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company, jwks=None, jwks_uri=publisher.uri))
    publisher.keys = [{"kty": "OKP", "kid": "odd"}, company.jwk]
    new = TokenIssuer("two", "ES256", issuer=COMPANY)
    async with trusting.speaking() as client:

        async def ask(issuer: TokenIssuer) -> httpx.Response:
            return await client.get(ME, headers=bearer(issuer.token(**claims("staff"))))

        answers = await asyncio.gather(*(ask(company) for _ in range(10)))
        assert [answer.status_code for answer in answers] == [200] * 10
        assert publisher.asked == 1
        for _ in range(5):
            check_refused(await ask(new))
        assert publisher.asked == 1  # who sends unknown keys does not make us ask each time
        publisher.keys = [company.jwk, new.jwk]
        clock.now += AGAIN_SECONDS + 1
        assert (await ask(new)).status_code == 200
        assert (await ask(company)).status_code == 200
        assert publisher.asked == 2
        publisher.keys = [new.jwk]  # the issuer has taken the first back
        assert (await ask(company)).status_code == 200
        clock.now += MAX_AGE_SECONDS + 1
        check_refused(await ask(company))
        assert (await ask(new)).status_code == 200


async def test_an_address_that_fails_leaves_the_keys_that_are_known(
    trusting: People, tmp_path: Path, company: TokenIssuer, publisher: Publisher, clock: Clock
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company, jwks=None, jwks_uri=publisher.uri))
    token = company.token(**claims("staff"))
    async with trusting.speaking(token) as client:
        publisher.status = 500
        check_refused(await client.get(ME))
        for status, body in (
            (302, b""),
            (200, b"<html>"),
            (200, b"x" * 2_000_000),
            (200, b'{"keys": 7}'),
        ):
            publisher.status, publisher.body = status, body
            clock.now += AGAIN_SECONDS + 1
            check_refused(await client.get(ME))
        publisher.status, publisher.body, publisher.keys = 200, b"", [company.jwk]
        clock.now += AGAIN_SECONDS + 1
        assert (await client.get(ME)).status_code == 200
        publisher.status = 503
        clock.now += MAX_AGE_SECONDS + 1
        asked = publisher.asked
        assert (await client.get(ME)).status_code == 200
        assert publisher.asked == asked + 1


async def test_an_issuer_that_is_taken_out_of_the_file_is_nobody_at_once(
    trusting: People, tmp_path: Path, company: TokenIssuer
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company))
    async with trusting.speaking(company.token(**claims("boss"))) as client:
        assert (await client.get(TASKS)).status_code == 200
        write_trust(tmp_path / "issuers.json")
        check_refused(await client.get(TASKS))


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
async def test_an_entry_that_is_none_trusts_nobody(
    trusting: People, tmp_path: Path, company: TokenIssuer, broken: dict[str, Any]
) -> None:
    write_trust(tmp_path / "issuers.json", entry(company, **broken))
    async with trusting.speaking(company.token(**claims("boss"))) as client:
        check_refused(await client.get(TASKS))
