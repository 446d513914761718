"""Login, refresh, logout, and every way in which a token can be invalid."""

import asyncio
import json
import time
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import jwt
import pytest
from argon2 import PasswordHasher, extract_parameters
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.domain.ids import new_id
from task_service.queue.wakeups import Wakeups
from task_service.services.identity.passwords import MEMORY_KIB, PARALLELISM, TIME_COST
from tests.support.problems import check_invalid_token, check_problem
from tests.support.secured_app import KEY, ME, PASSWORD, SecuredApp, bearer, log_in
from tests.support.service_settings import settings_for
from tests.support.tokens import unsigned_token

pytestmark = pytest.mark.asyncio


def now() -> int:
    """Return the Unix time. Not a constant: modules are imported long before the last test runs."""
    return int(time.time())


async def test_login_returns_tokens_that_identify_the_user(
    secured: SecuredApp, connection: asyncpg.Connection
) -> None:
    ada = await secured.register("Ada", "editor")
    async with secured.client() as client:
        response = await log_in(client, "aDA")  # names are case-insensitive
        assert response.status_code == 200, response.text
        assert response.headers["cache-control"] == "no-store"
        tokens = response.json()
        assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 1800)
        me = (await client.get(ME, headers=bearer(tokens["access_token"]))).json()
    assert me == {
        "id": str(ada.id), "username": "Ada", "role": "editor", "kind": "user",
        "permissions": ["read", "create_tasks", "change_own_tasks", "import_tasks", "read_settings"],
    }  # fmt: skip
    claims = jwt.decode(tokens["access_token"], KEY, ["HS256"], audience="task-service")
    assert set(claims) == {"iss", "aud", "sub", "role", "ver", "sid", "jti", "exp", "iat", "typ"}
    assert (claims["iss"], claims["sub"], claims["role"], claims["typ"]) == (
        "task-service", str(ada.id), "editor", "access",
    )  # fmt: skip
    assert claims["exp"] - claims["iat"] == 1800
    assert await connection.fetchval("SELECT last_login_at IS NOT NULL FROM users")


@pytest.mark.parametrize(("algorithm", "minutes"), [("HS384", 5), ("HS512", 1440)])
async def test_tokens_use_the_configured_algorithm_and_lifetime(
    database: str, engine: AsyncEngine, wakeups: Wakeups, algorithm: str, minutes: int
) -> None:
    settings: Any = {
        "secret_key": KEY + KEY,
        "algorithm": algorithm,
        "access_token_expire_minutes": minutes,
    }
    secured = SecuredApp(
        create_app(settings_for(database, auth_mode="required", **settings), engine, wakeups)
    )
    ada = await secured.register("ada")
    async with secured.client() as client:
        first = (await log_in(client, "ada")).json()
        second = (
            await client.post(
                "/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]}
            )
        ).json()
        for tokens in (first, second):
            assert tokens["expires_in"] == minutes * 60
            claims = jwt.decode(
                tokens["access_token"], KEY + KEY, [algorithm], audience="task-service"
            )
            assert claims["exp"] - claims["iat"] == minutes * 60
            for kind in ("access_token", "refresh_token"):
                assert jwt.get_unverified_header(tokens[kind])["alg"] == algorithm
            assert (await client.get(ME, headers=bearer(tokens["access_token"]))).status_code == 200
        check_invalid_token(
            await client.get(
                ME, headers=bearer(jwt.encode(good_claims(secured, ada.id), KEY + KEY, "HS256"))
            )
        )
    await secured.app.state.connections.stop()


async def test_created_by_is_the_username(secured: SecuredApp) -> None:
    ada = await secured.register("ada")
    async with secured.client(secured.token(ada)) as client:
        task = (await client.post("/api/v1/tasks", json={"title": "Ring"})).json()
    assert task["created_by"] == "ada"


async def test_unknown_users_and_wrong_passwords_get_the_same_error(secured: SecuredApp) -> None:
    await secured.register("ada")
    gone = await secured.register("gone")
    root = await secured.register("root", "admin")
    async with secured.client(secured.token(root)) as admin:
        await admin.patch(f"/api/v1/users/{gone.id}", json={"disabled": True})
    async with secured.client() as client:
        responses = [
            await log_in(client, "ada", "wrong horse battery"),
            await log_in(client, "nobody"),
            await log_in(client, "gone"),
            await log_in(client, "ada\x00"[:4], "x" * 1000),
            await log_in(client, "\u0000", PASSWORD),
        ]
    for response in responses:
        check_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["detail"] == "The user name or the password is wrong."


async def test_invalid_login_and_refresh_requests_are_rejected(secured: SecuredApp) -> None:
    async with secured.client() as client:
        for form in (
            {},
            {"username": "ada"},
            {"username": "ada", "password": "x" * 1001},
            {"username": "", "password": "x"},
        ):
            check_problem(await client.post("/api/v1/auth/token", data=form), 422, "invalid_field")
        other = {"grant_type": "client_credentials", "username": "a", "password": "b"}
        check_problem(await client.post("/api/v1/auth/token", data=other), 422, "invalid_field")
        assert (
            await client.post("/api/v1/auth/token", json={"username": "a", "password": "b"})
        ).status_code == 422
        for body in ({}, {"refresh_token": 7}, {"refresh_token": "x" * 10_001}):
            check_problem(
                await client.post("/api/v1/auth/refresh", json=body), 422, "invalid_field"
            )


async def test_unknown_user_costs_as_much_hashing_as_a_wrong_password(
    secured: SecuredApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    await secured.register("ada")
    work: list[Any] = []
    verify, create_hash = PasswordHasher.verify, PasswordHasher.hash

    def recorded_verify(hasher: PasswordHasher, stored: str, password: bytes) -> bool:
        work.append(extract_parameters(stored))
        return verify(hasher, stored, password)

    def recorded_hash(hasher: PasswordHasher, password: str) -> str:
        work.append("hash")
        return create_hash(hasher, password)

    monkeypatch.setattr(PasswordHasher, "verify", recorded_verify)
    monkeypatch.setattr(PasswordHasher, "hash", recorded_hash)
    async with secured.client() as client:
        taken = []
        # The first unknown name of a process also creates the hash that is verified for it.
        for name in ("nobody", "nobody", "ada"):
            work.clear()
            assert (await log_in(client, name, "wrong")).status_code == 401
            taken.append(list(work))
    _, unknown, wrong = taken
    assert len(wrong) == 1
    assert unknown == wrong


async def test_argon2id_hashes_are_upgraded_when_the_parameters_change(
    secured: SecuredApp, connection: asyncpg.Connection
) -> None:
    await secured.register("ada")
    stored = await connection.fetchval("SELECT password_hash FROM users")
    found = extract_parameters(stored)
    assert stored.startswith("$argon2id$")
    assert (found.time_cost, found.memory_cost, found.parallelism) == (
        TIME_COST,
        MEMORY_KIB,
        PARALLELISM,
    )
    assert (found.hash_len, found.salt_len) == (32, 16)
    weak = PasswordHasher(1, 8192, 1).hash(PASSWORD)
    await connection.execute("UPDATE users SET password_hash = $1", weak)
    async with secured.client() as client:
        assert (await log_in(client, "ada")).status_code == 200
        fresh = await connection.fetchval("SELECT password_hash FROM users")
        assert extract_parameters(fresh).memory_cost == MEMORY_KIB
        assert (await log_in(client, "ada")).status_code == 200
        assert await connection.fetchval("SELECT password_hash FROM users") == fresh


def good_claims(secured: SecuredApp, user_id: UUID) -> dict[str, Any]:
    return {
        "iss": "task-service", "aud": "task-service", "sub": str(user_id), "role": "editor", "ver": 1, "typ": "access",
        "sid": str(new_id()), "jti": str(new_id()), "iat": now(), "exp": now() + 600,
    }  # fmt: skip


async def test_every_invalid_token_is_rejected(secured: SecuredApp) -> None:
    ada = await secured.register("ada")
    good = good_claims(secured, ada.id)
    no_signature = unsigned_token(good)
    head, body, signature = jwt.encode(good, KEY, "HS256").split(".")
    changes: list[dict[str, Any]] = [
        {"exp": now() - 1}, {"exp": "later"}, {"nbf": now() + 600}, {"iat": now() + 600}, {"iss": "https://elsewhere"},
        {"aud": "another"}, {"sub": str(new_id())}, {"sub": "ada"}, {"role": "king"}, {"ver": 2}, {"ver": 0},
        {"ver": "x"}, {"typ": "refresh"}, {"typ": None}, {"sid": 7}, {"jti": []},
    ]  # fmt: skip
    tokens = [
        no_signature,
        no_signature.rstrip(".") + ".",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-2]}",
        jwt.encode(good, "another key of thirty-two characters", "HS256"),
        jwt.encode(good, KEY + KEY, "HS512"),
        *(jwt.PyJWS().encode(json.dumps(good | c).encode(), KEY, "HS256") for c in changes),
        *(jwt.encode({k: v for k, v in good.items() if k != name}, KEY, "HS256") for name in good),
        "x", "a.b.c", "....", "é", "x" * 10_000,
    ]  # fmt: skip
    async with secured.client() as client:
        assert (
            await client.get(ME, headers=bearer(jwt.encode(good, KEY, "HS256")))
        ).status_code == 200
        for token in tokens:
            headers = {b"authorization": f"Bearer {token}".encode()}
            check_invalid_token(await client.get(ME, headers=headers))
        for header in ("Bearer", "Bearer ", "Basic YWRhOng=", "Token x", "bearer"):
            check_invalid_token(await client.get(ME, headers={"authorization": header}))


async def test_missing_token_returns_401_with_a_bearer_challenge(secured: SecuredApp) -> None:
    async with secured.client() as client:
        for headers in ({}, {"authorization": ""}):
            response = await client.get("/api/v1/tasks", headers=headers)
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"


async def test_open_mode_accepts_a_missing_token_but_no_invalid_one(
    client: httpx.AsyncClient, app: Any
) -> None:
    me = (await client.get(ME)).json()
    assert (me["id"], me["username"], me["role"], me["kind"]) == (
        None,
        "anonymous",
        "admin",
        "anonymous",
    )
    check_invalid_token(await client.get(ME, headers=bearer("x")))
    secured = SecuredApp(app)
    viewer = await secured.register("eve", "viewer")
    headers = bearer(secured.token(viewer))
    assert (await client.get(ME, headers=headers)).json()["role"] == "viewer"
    response = await client.post("/api/v1/tasks", json={"title": "No"}, headers=headers)
    check_problem(response, 403, "forbidden")
    await app.state.connections.stop()


async def test_refresh_token_can_be_used_once(secured: SecuredApp) -> None:
    await secured.register("ada")
    async with secured.client() as client:
        first = (await log_in(client, "ada")).json()
        response = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]}
        )
        second = response.json()
        assert (response.status_code, set(second)) == (200, set(first))
        assert second["refresh_token"] != first["refresh_token"]
        for tokens in (first, second):
            assert (await client.get(ME, headers=bearer(tokens["access_token"]))).status_code == 200
        check_invalid_token(await client.get(ME, headers=bearer(second["refresh_token"])))
        wrong = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": second["access_token"]}
        )
        check_invalid_token(wrong)
        third = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": second["refresh_token"]}
        )
        assert third.status_code == 200


async def test_reused_refresh_token_revokes_only_its_own_session(
    secured: SecuredApp,
) -> None:
    await secured.register("ada")
    async with secured.client() as client:
        other = (await log_in(client, "ada")).json()
        stolen = (await log_in(client, "ada")).json()
        thief = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": stolen["refresh_token"]}
        )
        assert thief.status_code == 200
        check_invalid_token(
            await client.post(
                "/api/v1/auth/refresh", json={"refresh_token": stolen["refresh_token"]}
            )
        )
        for token in (thief.json()["access_token"], stolen["access_token"]):
            check_invalid_token(await client.get(ME, headers=bearer(token)))
        again = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": thief.json()["refresh_token"]}
        )
        check_invalid_token(again)
        assert (await client.get(ME, headers=bearer(other["access_token"]))).status_code == 200


async def test_one_of_many_concurrent_refreshes_succeeds(secured: SecuredApp) -> None:
    await secured.register("ada")
    async with secured.client() as client:
        token = (await log_in(client, "ada")).json()["refresh_token"]
        responses = await asyncio.gather(
            *(client.post("/api/v1/auth/refresh", json={"refresh_token": token}) for _ in range(10))
        )
    assert sorted(a.status_code for a in responses) == [200] + [401] * 9


async def test_logout_ends_only_its_own_session(secured: SecuredApp) -> None:
    await secured.register("ada")
    async with secured.client() as client:
        other, mine = (await log_in(client, "ada")).json(), (await log_in(client, "ada")).json()
        headers = bearer(mine["access_token"])
        response = await client.post("/api/v1/auth/logout", headers=headers)
        assert (response.status_code, response.content) == (204, b"")
        check_invalid_token(await client.get(ME, headers=headers))
        check_invalid_token(
            await client.post("/api/v1/auth/refresh", json={"refresh_token": mine["refresh_token"]})
        )
        assert (await client.get(ME, headers=bearer(other["access_token"]))).status_code == 200


async def test_password_change_ends_all_sessions_and_starts_a_new_one(secured: SecuredApp) -> None:
    await secured.register("ada")
    async with secured.client() as client:
        old, older = (await log_in(client, "ada")).json(), (await log_in(client, "ada")).json()
        change = {"current_password": PASSWORD, "new_password": "a better horse battery"}
        url, headers = "/api/v1/auth/password", bearer(old["access_token"])
        wrong = await client.post(url, json=change | {"current_password": "no"}, headers=headers)
        check_problem(wrong, 401, "unauthorized")
        weak = await client.post(url, json=change | {"new_password": "password"}, headers=headers)
        check_problem(weak, 422, "invalid_field")
        assert weak.json()["errors"][0]["field"] == "new_password"
        response = await client.post(url, json=change, headers=headers)
        assert response.status_code == 200, response.text
        assert (
            await client.get(ME, headers=bearer(response.json()["access_token"]))
        ).status_code == 200
        for tokens in (old, older):
            check_invalid_token(await client.get(ME, headers=bearer(tokens["access_token"])))
            check_invalid_token(
                await client.post(
                    "/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
                )
            )
        assert (await log_in(client, "ada")).status_code == 401
        assert (await log_in(client, "ada", change["new_password"])).status_code == 200


async def test_passwords_are_compared_after_unicode_normalization(secured: SecuredApp) -> None:
    await secured.register("ada", password="\u00c5ngstr\u00f6m unit")
    async with secured.client() as client:
        assert (await log_in(client, "ada", "A\u030angstro\u0308m unit")).status_code == 200


async def test_user_lookup_survives_a_lost_connection(
    secured: SecuredApp, connection: asyncpg.Connection
) -> None:
    ada = await secured.register("ada")
    async with secured.client(secured.token(ada)) as client:
        for at_once in (1, 8):
            responses = await asyncio.gather(*(client.get(ME) for _ in range(at_once)))
            assert [response.status_code for response in responses] == [200] * at_once
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%token_version%'"
            )
            assert len(ended) >= min(at_once, 4)
            assert (await client.get(ME)).status_code == 200
