"""Log in, refresh, log out, and every way in which a token can be wrong."""

import asyncio
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
from tests.integration.api.test_bad_input import check_problem
from tests.support.people import KEY, PASSWORD, People, bearer, log_in
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.asyncio
ME = "/api/v1/auth/me"


def now() -> int:
    """Seconds since 1970. Not a constant: modules are imported long before the last test runs."""
    return int(time.time())


def check_refused(answer: httpx.Response) -> None:
    """Refused because of the token that was sent."""
    check_problem(answer, 401, "invalid_token")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_who_logs_in_gets_tokens_and_is_known_by_them(
    people: People, connection: asyncpg.Connection
) -> None:
    ada = await people.register("Ada", "editor")
    async with people.speaking() as client:
        answer = await log_in(client, "aDA")  # case makes no difference
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        tokens = answer.json()
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
async def test_tokens_are_signed_and_live_as_the_settings_say(
    database: str, engine: AsyncEngine, wakeups: Wakeups, algorithm: str, minutes: int
) -> None:
    given: Any = {
        "secret_key": KEY + KEY,
        "algorithm": algorithm,
        "access_token_expire_minutes": minutes,
    }
    people = People(
        create_app(settings_for(database, auth_mode="required", **given), engine, wakeups)
    )
    ada = await people.register("ada")
    async with people.speaking() as client:
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
        check_refused(
            await client.get(
                ME, headers=bearer(jwt.encode(good_claims(people, ada.id), KEY + KEY, "HS256"))
            )
        )
    await people.app.state.connections.stop()


async def test_a_task_is_its_creators(people: People) -> None:
    ada = await people.register("ada")
    async with people.speaking(people.token(ada)) as client:
        task = (await client.post("/api/v1/tasks", json={"title": "Ring"})).json()
    assert task["created_by"] == "ada"


async def test_wrong_names_and_passwords_are_refused_alike(people: People) -> None:
    await people.register("ada")
    gone = await people.register("gone")
    root = await people.register("root", "admin")
    async with people.speaking(people.token(root)) as admin:
        await admin.patch(f"/api/v1/users/{gone.id}", json={"disabled": True})
    async with people.speaking() as client:
        answers = [
            await log_in(client, "ada", "wrong horse battery"),
            await log_in(client, "nobody"),
            await log_in(client, "gone"),
            await log_in(client, "ada\x00"[:4], "x" * 1000),
            await log_in(client, "\u0000", PASSWORD),
        ]
    for answer in answers:
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["detail"] == "The user name or the password is wrong."


async def test_forms_that_are_none_are_refused(people: People) -> None:
    async with people.speaking() as client:
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


async def test_an_unknown_name_takes_the_same_work_as_a_wrong_password(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people.register("ada")
    work: list[Any] = []
    verify, hash_anew = PasswordHasher.verify, PasswordHasher.hash

    def noted_verify(hasher: PasswordHasher, stored: str, password: bytes) -> bool:
        work.append(extract_parameters(stored))
        return verify(hasher, stored, password)

    def noted_hash(hasher: PasswordHasher, password: str) -> str:
        work.append("hash")
        return hash_anew(hasher, password)

    monkeypatch.setattr(PasswordHasher, "verify", noted_verify)
    monkeypatch.setattr(PasswordHasher, "hash", noted_hash)
    async with people.speaking() as client:
        taken = []
        for name in (
            "nobody",
            "nobody",
            "ada",
        ):  # the first one of a process makes the hash that nobody's is
            work.clear()
            assert (await log_in(client, name, "wrong")).status_code == 401
            taken.append(list(work))
    _, unknown, wrong = taken
    assert len(wrong) == 1
    assert unknown == wrong


async def test_passwords_are_hashed_with_argon2id_and_anew_when_parameters_change(
    people: People, connection: asyncpg.Connection
) -> None:
    await people.register("ada")
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
    async with people.speaking() as client:
        assert (await log_in(client, "ada")).status_code == 200
        fresh = await connection.fetchval("SELECT password_hash FROM users")
        assert extract_parameters(fresh).memory_cost == MEMORY_KIB
        assert (await log_in(client, "ada")).status_code == 200
        assert await connection.fetchval("SELECT password_hash FROM users") == fresh


def good_claims(people: People, user_id: UUID) -> dict[str, Any]:
    return {
        "iss": "task-service", "aud": "task-service", "sub": str(user_id), "role": "editor", "ver": 1, "typ": "access",
        "sid": str(new_id()), "jti": str(new_id()), "iat": now(), "exp": now() + 600,
    }  # fmt: skip


async def test_every_wrong_token_is_refused(people: People) -> None:
    ada = await people.register("ada")
    good = good_claims(people, ada.id)
    no_signature = jwt.encode(good, None, "none")
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
        *(jwt.PyJWS().encode(__import__("json").dumps(good | c).encode(), KEY, "HS256") for c in changes),
        *(jwt.encode({k: v for k, v in good.items() if k != name}, KEY, "HS256") for name in good),
        "x", "a.b.c", "....", "é", "x" * 10_000,
    ]  # fmt: skip
    async with people.speaking() as client:
        assert (
            await client.get(ME, headers=bearer(jwt.encode(good, KEY, "HS256")))
        ).status_code == 200
        for token in tokens:
            check_refused(
                await client.get(ME, headers={"authorization": f"Bearer {token}".encode()})
            )
        for header in ("Bearer", "Bearer ", "Basic YWRhOng=", "Token x", "bearer"):
            check_refused(await client.get(ME, headers={"authorization": header}))


async def test_without_a_token_everybody_is_asked_to_log_in(people: People) -> None:
    async with people.speaking() as client:
        for headers in ({}, {"authorization": ""}):
            answer = await client.get("/api/v1/tasks", headers=headers)
            check_problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_in_open_mode_a_token_may_be_missing_but_not_wrong(
    client: httpx.AsyncClient, app: Any
) -> None:
    me = (await client.get(ME)).json()
    assert (me["id"], me["username"], me["role"], me["kind"]) == (
        None,
        "anonymous",
        "admin",
        "anonymous",
    )
    check_refused(await client.get(ME, headers=bearer("x")))
    people = People(app)
    viewer = await people.register("eve", "viewer")
    headers = bearer(people.token(viewer))
    assert (await client.get(ME, headers=headers)).json()["role"] == "viewer"
    answer = await client.post("/api/v1/tasks", json={"title": "No"}, headers=headers)
    check_problem(answer, 403, "forbidden")
    await app.state.connections.stop()


async def test_a_refresh_token_gives_the_next_pair_once(people: People) -> None:
    await people.register("ada")
    async with people.speaking() as client:
        first = (await log_in(client, "ada")).json()
        answer = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]}
        )
        second = answer.json()
        assert (answer.status_code, set(second)) == (200, set(first))
        assert second["refresh_token"] != first["refresh_token"]
        for tokens in (first, second):
            assert (await client.get(ME, headers=bearer(tokens["access_token"]))).status_code == 200
        check_refused(await client.get(ME, headers=bearer(second["refresh_token"])))
        wrong = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": second["access_token"]}
        )
        check_refused(wrong)
        third = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": second["refresh_token"]}
        )
        assert third.status_code == 200


async def test_a_used_refresh_token_that_comes_back_ends_its_log_in_and_no_other(
    people: People,
) -> None:
    await people.register("ada")
    async with people.speaking() as client:
        other = (await log_in(client, "ada")).json()
        stolen = (await log_in(client, "ada")).json()
        thief = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": stolen["refresh_token"]}
        )
        assert thief.status_code == 200
        check_refused(
            await client.post(
                "/api/v1/auth/refresh", json={"refresh_token": stolen["refresh_token"]}
            )
        )
        for token in (thief.json()["access_token"], stolen["access_token"]):
            check_refused(await client.get(ME, headers=bearer(token)))
        again = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": thief.json()["refresh_token"]}
        )
        check_refused(again)
        assert (await client.get(ME, headers=bearer(other["access_token"]))).status_code == 200


async def test_of_many_uses_at_once_one_refresh_succeeds(people: People) -> None:
    await people.register("ada")
    async with people.speaking() as client:
        token = (await log_in(client, "ada")).json()["refresh_token"]
        answers = await asyncio.gather(
            *(client.post("/api/v1/auth/refresh", json={"refresh_token": token}) for _ in range(10))
        )
    assert sorted(a.status_code for a in answers) == [200] + [401] * 9


async def test_logging_out_ends_this_log_in_only(people: People) -> None:
    await people.register("ada")
    async with people.speaking() as client:
        other, mine = (await log_in(client, "ada")).json(), (await log_in(client, "ada")).json()
        headers = bearer(mine["access_token"])
        answer = await client.post("/api/v1/auth/logout", headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        check_refused(await client.get(ME, headers=headers))
        check_refused(
            await client.post("/api/v1/auth/refresh", json={"refresh_token": mine["refresh_token"]})
        )
        assert (await client.get(ME, headers=bearer(other["access_token"]))).status_code == 200


async def test_a_new_password_ends_every_log_in_and_begins_one(people: People) -> None:
    await people.register("ada")
    async with people.speaking() as client:
        old, older = (await log_in(client, "ada")).json(), (await log_in(client, "ada")).json()
        change = {"current_password": PASSWORD, "new_password": "a better horse battery"}
        url, headers = "/api/v1/auth/password", bearer(old["access_token"])
        wrong = await client.post(url, json=change | {"current_password": "no"}, headers=headers)
        check_problem(wrong, 401, "unauthorized")
        weak = await client.post(url, json=change | {"new_password": "password"}, headers=headers)
        check_problem(weak, 422, "invalid_field")
        assert weak.json()["errors"][0]["field"] == "new_password"
        answer = await client.post(url, json=change, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (
            await client.get(ME, headers=bearer(answer.json()["access_token"]))
        ).status_code == 200
        for tokens in (old, older):
            check_refused(await client.get(ME, headers=bearer(tokens["access_token"])))
            check_refused(
                await client.post(
                    "/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
                )
            )
        assert (await log_in(client, "ada")).status_code == 401
        assert (await log_in(client, "ada", change["new_password"])).status_code == 200


async def test_a_password_is_the_same_however_its_letters_were_typed(people: People) -> None:
    await people.register("ada", password="\u00c5ngstr\u00f6m unit")
    async with people.speaking() as client:
        assert (await log_in(client, "ada", "A\u030angstro\u0308m unit")).status_code == 200


async def test_the_look_up_of_a_user_costs_one_statement_and_survives_a_lost_connection(
    people: People, connection: asyncpg.Connection
) -> None:
    ada = await people.register("ada")
    async with people.speaking(people.token(ada)) as client:
        for at_once in (1, 8):
            answers = await asyncio.gather(*(client.get(ME) for _ in range(at_once)))
            assert [answer.status_code for answer in answers] == [200] * at_once
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%token_version%'"
            )
            assert len(ended) >= min(at_once, 4)
            assert (await client.get(ME)).status_code == 200
