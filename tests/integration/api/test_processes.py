"""Processes of the API as they are deployed: shared rate limits, trusted proxies and logs."""

import asyncio
import json

import asyncpg
import httpx
import pytest

from task_service.store.users import ADMIN_LOCK
from tests.support.api_process import ApiProcess, api_processes
from tests.support.redis import redis_server
from tests.support.secured_app import KEY, PASSWORD
from tests.support.secured_processes import ADMIN, LOGIN, log_in_admin, secured_settings
from tests.support.waiting import eventually

WRONG = {"username": "root", "password": "wrong-horse-77"}


def test_process_is_ready_only_when_its_first_administrator_exists(database: str) -> None:
    async def check_readiness() -> None:
        other = await asyncpg.connect(database)
        await other.execute("SELECT pg_advisory_lock($1)", ADMIN_LOCK)
        with api_processes(1, "startupz", **secured_settings(database)) as [process]:
            unready = await asyncio.to_thread(httpx.get, process.probe("readyz"))
            assert (unready.status_code, unready.json()["reason"]) == (
                503,
                "the first administrator has not been created yet",
            )
            await other.close()
            await asyncio.to_thread(process.wait_until, "readyz")
            await asyncio.to_thread(log_in_admin, process)

    asyncio.run(check_readiness())


def test_processes_share_limits_in_redis_and_count_alone_without_it(
    database: str,
) -> None:
    with redis_server() as redis:
        limits = {"rate_limit_read": "6/hour", "rate_limit_login": "none", "redis_url": redis.url}
        with api_processes(2, **secured_settings(database, **limits)) as processes:
            headers = {"authorization": f"Bearer {log_in_admin(processes[0])['access_token']}"}

            def get_me(process: ApiProcess) -> httpx.Response:
                return httpx.get(f"{process.url}/api/v1/auth/me", headers=headers)

            responses = [get_me(process) for process in processes * 4]
            assert [response.status_code for response in responses] == [200] * 6 + [429] * 2
            assert [a.headers["ratelimit-remaining"] for a in responses] == [
                "5",
                "4",
                "3",
                "2",
                "1",
                "0",
                "0",
                "0",
            ]
            for refused in responses[6:]:
                assert 1 <= int(refused.headers["retry-after"]) <= 3600
            redis.kill()
            for process in processes:
                responses = [get_me(process) for _ in range(7)]
                assert [response.status_code for response in responses] == [200] * 6 + [429]
            redis.start()

            async def is_shared_again() -> bool:
                first = (await asyncio.to_thread(get_me, processes[0])).headers[
                    "ratelimit-remaining"
                ]
                second = (await asyncio.to_thread(get_me, processes[1])).headers[
                    "ratelimit-remaining"
                ]
                return int(first) > int(second) or "shared_again" in processes[1].log()

            asyncio.run(eventually("shared counting", is_shared_again))
            for process in processes:
                assert (
                    process.log().count("rate_limits_not_shared") == 1
                )  # logged once, not per request
                assert process.log().count("rate_limits_shared_again") <= 1


def login_statuses(process: ApiProcess, *forwarded: str) -> list[int]:
    """Try to log in with a wrong password once per X-Forwarded-For value; return the statuses."""
    with httpx.Client(base_url=process.url) as client:
        return [
            client.post(LOGIN, data=WRONG, headers={"x-forwarded-for": f}).status_code
            for f in forwarded
        ]


def test_forged_forwarded_address_does_not_evade_the_limit(database: str) -> None:
    with api_processes(1, **secured_settings(database, rate_limit_login="3/hour")) as [process]:
        assert (
            login_statuses(process, *(f"203.0.113.{n}" for n in range(5))) == [401] * 3 + [429] * 2
        )


def test_only_the_address_that_a_trusted_proxy_adds_is_used(database: str) -> None:
    """The proxy appends the address that it sees; anything before it comes from the client."""
    trusted = secured_settings(
        database, rate_limit_login="3/hour", trusted_proxies="127.0.0.1,10.0.0.0/8"
    )
    with api_processes(1, **trusted) as [process]:
        assert login_statuses(process, *["203.0.113.1"] * 4) == [401] * 3 + [429]
        assert login_statuses(process, *(f"198.51.100.{n}, 203.0.113.2" for n in range(4))) == [
            401
        ] * 3 + [429]
        assert login_statuses(process, *(f"203.0.113.3, 10.1.2.{n}" for n in range(4))) == [
            401
        ] * 3 + [429]
        assert login_statuses(
            process, *(f"127.0.0.1, 10.0.0.7, 203.0.113.4, 10.1.2.{n}" for n in range(4))
        ) == [401] * 3 + [429]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logs_contain_no_secrets(database: str, log_format: str) -> None:
    secrets = {
        "database": "db-horse-3141",
        "redis": "redis-horse-2718",
        "wrong": WRONG["password"],
        "key": KEY,
    }
    with_password = database.replace("postgres@", f"postgres:{secrets['database']}@")
    settings = {
        "database_url": with_password, "log_level": "DEBUG", "log_format": log_format, "rate_limit_login": "1000/hour",
        "redis_url": f"redis://:{secrets['redis']}@127.0.0.1:1/0", "webhook_secret": "webhook-horse-1618",
    }  # fmt: skip
    with api_processes(1, **secured_settings(database, **settings)) as [process]:
        tokens = log_in_admin(process)
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
            assert (
                client.post("/api/v1/auth/refresh", json=body).status_code == 401
            )  # reused, so it may be stolen
            client.post("/api/v1/auth/logout", headers=headers)
        process.stop()
        log = process.log()
    assert "login_failed" in log
    assert "refresh_token_reused" in log
    hidden = {**secrets, **tokens, **{f"new {k}": v for k, v in again.items()}, "admin": PASSWORD} | {
        "webhook": "webhook-horse-1618", "unsent": "unsent-horse-0001", "fresh": "fresh-horse-1234",
        "bad token": "bad-horse-token", "unknown user": "nobody-horse",
    }  # fmt: skip
    for what, secret in hidden.items():
        if isinstance(secret, str) and what.rpartition(" ")[2] != "token_type":
            assert secret not in log, what
            assert secret.rpartition(".")[2] not in log, what  # nor the signature of a token
    if log_format == "json":
        assert all(json.loads(line) for line in log.splitlines())


def test_connection_errors_do_not_show_the_database_password() -> None:
    """Connection errors often contain the password of the URL."""
    address = "postgresql://ada:db-horse-3141@127.0.0.1:1/tasks"
    settings = secured_settings(address, log_level="DEBUG", debug=True)
    with api_processes(1, "livez", **settings) as [process]:
        response = httpx.post(process.url + LOGIN, data=ADMIN)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        process.stop()
        log = process.log()
    assert "request_unavailable" in log
    for text in (log, response.text):
        assert "db-horse-3141" not in text
        assert PASSWORD not in text
