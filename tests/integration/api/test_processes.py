"""Processes of the API as they are deployed: limits that they share, addresses they believe, and what they log."""

import asyncio
import json
from typing import Any

import asyncpg
import httpx
import pytest

from task_service.store.users import ADMIN_LOCK
from tests.support.api_process import ApiProcess, api_processes
from tests.support.people import KEY, PASSWORD
from tests.support.redis import redis_server
from tests.support.waiting import eventually

ADMIN = {"admin_username": "root", "admin_password": PASSWORD}
LOGIN = "/api/v1/auth/token"
WRONG = {"username": "root", "password": "wrong-horse-77"}
MINE = {"username": "root", "password": PASSWORD}


def settings_of(database: str, **given: object) -> dict[str, object]:
    return {"database_url": database, "secret_key": KEY, "auth_mode": "required", **ADMIN, **given}


def log_in(process: ApiProcess) -> dict[str, Any]:
    """Tokens of the first administrator, who is there once the process is ready."""
    answer = httpx.post(process.url + LOGIN, data=MINE)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def test_it_is_ready_only_when_its_first_administrator_can_log_in(database: str) -> None:
    async def while_others_make_one() -> None:
        other = await asyncpg.connect(database)
        await other.execute("SELECT pg_advisory_lock($1)", ADMIN_LOCK)
        with api_processes(1, "startupz", **settings_of(database)) as [process]:
            unready = await asyncio.to_thread(httpx.get, process.probe("readyz"))
            assert (unready.status_code, unready.json()["reason"]) == (
                503,
                "the first administrator is not made yet",
            )
            await other.close()
            await asyncio.to_thread(process.wait_until, "readyz")
            await asyncio.to_thread(log_in, process)

    asyncio.run(while_others_make_one())


def test_two_processes_share_limits_through_redis_and_count_alone_while_it_is_away(
    database: str,
) -> None:
    with redis_server() as redis:
        limits = {"rate_limit_read": "6/hour", "rate_limit_login": "none", "redis_url": redis.url}
        with api_processes(2, **settings_of(database, **limits)) as processes:
            headers = {"authorization": f"Bearer {log_in(processes[0])['access_token']}"}

            def ask(process: ApiProcess) -> httpx.Response:
                return httpx.get(f"{process.url}/api/v1/auth/me", headers=headers)

            answers = [ask(process) for process in processes * 4]
            assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 2
            assert [a.headers["ratelimit-remaining"] for a in answers] == [
                "5",
                "4",
                "3",
                "2",
                "1",
                "0",
                "0",
                "0",
            ]
            for refused in answers[6:]:
                assert 1 <= int(refused.headers["retry-after"]) <= 3600
            redis.kill()
            for process in processes:
                answers = [ask(process) for _ in range(7)]
                assert [answer.status_code for answer in answers] == [200] * 6 + [429]
            redis.start()

            async def is_shared_again() -> bool:
                first = (await asyncio.to_thread(ask, processes[0])).headers["ratelimit-remaining"]
                second = (await asyncio.to_thread(ask, processes[1])).headers["ratelimit-remaining"]
                return int(first) > int(second) or "shared_again" in processes[1].log()

            asyncio.run(eventually("counting together", is_shared_again))
            for process in processes:
                assert (
                    process.log().count("rate_limits_not_shared") == 1
                )  # said once, not with each request
                assert process.log().count("rate_limits_shared_again") <= 1


def attempts(process: ApiProcess, *forwarded: str) -> list[int]:
    """Log-ins with a wrong password, each saying that it comes from these addresses."""
    with httpx.Client(base_url=process.url) as client:
        return [
            client.post(LOGIN, data=WRONG, headers={"x-forwarded-for": f}).status_code
            for f in forwarded
        ]


def test_nobody_escapes_their_limit_by_saying_that_they_are_somebody_else(database: str) -> None:
    with api_processes(1, **settings_of(database, rate_limit_login="3/hour")) as [process]:
        assert attempts(process, *(f"203.0.113.{n}" for n in range(5))) == [401] * 3 + [429] * 2


def test_a_trusted_proxy_is_believed_but_not_what_its_clients_put_before(database: str) -> None:
    """The proxy adds the address that it sees at the end; what stands before came with the request."""
    trusted = settings_of(
        database, rate_limit_login="3/hour", trusted_proxies="127.0.0.1,10.0.0.0/8"
    )
    with api_processes(1, **trusted) as [process]:
        assert attempts(process, *["203.0.113.1"] * 4) == [401] * 3 + [429]
        assert attempts(process, *(f"198.51.100.{n}, 203.0.113.2" for n in range(4))) == [
            401
        ] * 3 + [429]
        assert attempts(process, *(f"203.0.113.3, 10.1.2.{n}" for n in range(4))) == [401] * 3 + [
            429
        ]
        assert attempts(
            process, *(f"127.0.0.1, 10.0.0.7, 203.0.113.4, 10.1.2.{n}" for n in range(4))
        ) == [401] * 3 + [429]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_logged_whatever_goes_wrong(database: str, log_format: str) -> None:
    secrets = {
        "database": "db-horse-3141",
        "redis": "redis-horse-2718",
        "wrong": WRONG["password"],
        "key": KEY,
    }
    with_password = database.replace("postgres@", f"postgres:{secrets['database']}@")
    given = {
        "database_url": with_password, "log_level": "DEBUG", "log_format": log_format, "rate_limit_login": "1000/hour",
        "redis_url": f"redis://:{secrets['redis']}@127.0.0.1:1/0", "webhook_secret": "webhook-horse-1618",
    }  # fmt: skip
    with api_processes(1, **settings_of(database, **given)) as [process]:
        tokens = log_in(process)
        headers = {"authorization": f"Bearer {tokens['access_token']}"}
        with httpx.Client(base_url=process.url) as client:
            assert client.post(LOGIN, data=WRONG).status_code == 401
            assert (
                client.post(
                    LOGIN, data={"username": "nobody-horse", "password": secrets["wrong"]}
                ).status_code
                == 401
            )
            broken = {"username": "root", "password": "unsent-horse-0001", "grant_type": "none"}
            assert client.post(LOGIN, data=broken).status_code == 422
            assert client.get("/api/v1/tasks", headers=headers).status_code == 200
            assert (
                client.get(
                    "/api/v1/tasks", headers={"authorization": "Bearer bad-horse-token"}
                ).status_code
                == 401
            )
            new = {"username": "ada", "password": "fresh-horse-1234"}
            assert client.post("/api/v1/users", json=new, headers=headers).status_code == 201
            assert (
                client.post(
                    "/api/v1/users", json=new | {"role": "king"}, headers=headers
                ).status_code
                == 422
            )
            body = {"refresh_token": tokens["refresh_token"]}
            again = client.post("/api/v1/auth/refresh", json=body).json()
            assert client.post("/api/v1/auth/refresh", json=body).status_code == 401  # used: stolen
            client.post("/api/v1/auth/logout", headers=headers)
        process.stop()
        log = process.log()
    assert "login_failed" in log
    assert "refresh_token_reused" in log
    hidden = {**secrets, **tokens, **{f"new {k}": v for k, v in again.items()}, "admin": PASSWORD} | {
        "webhook": "webhook-horse-1618", "unsent": "unsent-horse-0001", "fresh": "fresh-horse-1234",
        "bad token": "bad-horse-token", "who tried": "nobody-horse",
    }  # fmt: skip
    for what, secret in hidden.items():
        if isinstance(secret, str) and what.rpartition(" ")[2] != "token_type":
            assert secret not in log, what
            assert secret.rpartition(".")[2] not in log, what  # nor a token's signature
    if log_format == "json":
        assert all(json.loads(line) for line in log.splitlines())


def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    """Errors of connecting are where passwords like to appear."""
    address = "postgresql://ada:db-horse-3141@127.0.0.1:1/tasks"
    given = settings_of(address, log_level="DEBUG", debug=True)
    with api_processes(1, "livez", **given) as [process]:
        answer = httpx.post(process.url + LOGIN, data=MINE)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        process.stop()
        log = process.log()
    assert "request_unavailable" in log
    for text in (log, answer.text):
        assert "db-horse-3141" not in text
        assert PASSWORD not in text
