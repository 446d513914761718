"""Rate limits per caller, shared by all instances, or counted per instance without Redis."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from prometheus_client import REGISTRY
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.api.http import rate_limits as module
from task_service.queue.wakeups import Wakeups
from tests.support.problems import check_problem
from tests.support.redis import RedisServer, redis_server
from tests.support.secured_app import KEY, SecuredApp, bearer, log_in
from tests.support.service_settings import settings_for
from tests.support.task_api import TASKS
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
Make = Callable[..., SecuredApp]


HEADERS = {
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "ratelimit-policy",
    "ratelimit",
}


@pytest_asyncio.fixture
async def make(database: str, engine: AsyncEngine, wakeups: Wakeups) -> AsyncIterator[Make]:
    """Function that creates instances; windows last an hour, so that none ends during a test."""
    made: list[FastAPI] = []

    def instance(**overrides: Any) -> SecuredApp:
        limits: dict[str, Any] = {
            f"rate_limit_{kind}": None for kind in ("read", "write", "login", "upload")
        }
        settings = settings_for(
            database, **(limits | {"secret_key": KEY, "auth_mode": "required"} | overrides)
        )
        app = create_app(settings, engine, wakeups)
        made.append(app)
        return SecuredApp(app)

    yield instance
    for app in made:
        await app.state.connections.stop()


async def statuses(
    client: httpx.AsyncClient, number: int, method: str = "GET", path: str = TASKS
) -> list[int]:
    return [(await client.request(method, path, json=None)).status_code for _ in range(number)]


async def test_caller_over_the_limit_gets_429_with_the_time_to_wait(make: Make) -> None:
    secured = make(rate_limit_read="3/hour")
    ada = await secured.register("ada")
    async with secured.client(secured.token(ada)) as client:
        for left in (2, 1, 0):
            response = await client.get(TASKS)
            assert response.status_code == 200
            reset = int(response.headers["ratelimit-reset"])
            assert {k: v for k, v in response.headers.items() if k in HEADERS} == {
                "ratelimit-limit": "3", "ratelimit-remaining": str(left), "ratelimit-reset": str(reset),
                "ratelimit-policy": '"read";q=3;w=3600', "ratelimit": f'"read";r={left};t={reset}',
            }  # fmt: skip
            assert 1 <= reset <= 3600
        before = (
            REGISTRY.get_sample_value("task_service_rate_limited_total", {"limit": "read"}) or 0
        )
        refused = await client.get(TASKS)
        problem = check_problem(refused, 429, "too_many_requests")
        assert problem["detail"] == "Too many requests, please try again later."
        assert 0 <= reset - int(refused.headers["retry-after"]) < 60
        assert refused.headers["ratelimit-remaining"] == "0"
        assert (
            REGISTRY.get_sample_value("task_service_rate_limited_total", {"limit": "read"})
            == before + 1
        )
        created = await client.post(TASKS, json={"title": "Another limit"})
        assert created.status_code == 201
        assert not HEADERS & set(created.headers)


async def test_each_user_and_each_address_has_its_own_limit(make: Make) -> None:
    secured = make(rate_limit_read="2/hour")
    ada, bob = await secured.register("ada"), await secured.register("bob")
    async with (
        secured.client(secured.token(ada)) as first,
        secured.client(secured.token(ada), "10.0.0.9") as second,
    ):
        assert await statuses(first, 2) == [200, 200]
        assert await statuses(second, 1) == [429]  # the same user from another address
    async with secured.client(secured.token(bob)) as client:
        assert await statuses(client, 3) == [200, 200, 429]
    for address, expected in (
        ("10.0.0.1", [401, 401, 429]),
        ("10.0.0.2", [401]),
        ("::ffff:10.0.0.1", [429]),
    ):
        async with secured.client(None, address) as client:
            assert await statuses(client, len(expected)) == expected
    for address, expected in (
        ("2001:db8::1", [401, 401]),
        ("2001:db8::2", [429]),
        ("2001:db8:0:1::1", [401]),
    ):
        async with secured.client(
            "x.y.z", address
        ) as client:  # a /64 network counts as one address
            assert await statuses(client, len(expected)) == expected


async def test_login_refresh_and_upload_have_their_own_limits(make: Make) -> None:
    secured = make(rate_limit_login="3/hour", rate_limit_upload="1/hour")
    ada = await secured.register("ada")
    async with secured.client() as client:
        assert (await log_in(client, "ada", "wrong")).status_code == 401
        tokens = (await log_in(client, "ada")).json()
        again = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}
        )
        assert again.status_code == 200
        check_problem(await log_in(client, "ada"), 429, "too_many_requests")
        used = await client.post(
            "/api/v1/auth/refresh", json={"refresh_token": again.json()["refresh_token"]}
        )
        check_problem(used, 429, "too_many_requests")
        change = {"current_password": "a", "new_password": "b"}
        headers = bearer(secured.token(ada))
        check_problem(
            await client.post("/api/v1/auth/password", json=change, headers=headers),
            429,
            "too_many_requests",
        )
    async with secured.client(None, "10.1.1.1") as client:
        assert (await log_in(client, "ada")).status_code == 200
    async with secured.client(secured.token(ada)) as client:
        assert await statuses(client, 2, "POST", "/api/v1/tasks:import") != [429, 429]
        assert await statuses(client, 1, "POST", "/upload-csv/") == [429]
        assert await statuses(client, 3) == [200] * 3


async def test_service_d_paths_return_429_in_the_format_of_service_d(make: Make) -> None:
    secured = make(rate_limit_write="1/hour", rate_limit_read="1/hour", rate_limit_upload="1/hour")
    ada = await secured.register("ada")
    async with secured.client(secured.token(ada)) as client:
        assert (await client.post("/task", json={"title": "one"})).status_code < 300
        await client.get(TASKS)
        await client.post("/upload-csv")
        for method, path in (
            ("POST", "/task"), ("PUT", "/task/1"), ("DELETE", "/task/1"), ("GET", "/task/1"), ("POST", "/upload-csv"),
            ("GET", "/compat/d/tasks"), ("POST", "/compat/d/task"), ("POST", "/compat/d/upload-csv/"),
        ):  # fmt: skip
            response = await client.request(method, path)
            assert (response.status_code, response.json()) == (
                429, {"error": "Too many requests, please try again later."},
            ), path  # fmt: skip
            assert response.headers["content-type"] == "application/json"
            assert int(response.headers["retry-after"]) >= 1
            assert response.headers["ratelimit-remaining"] == "0"


async def test_instances_share_limits_in_redis_and_count_alone_without_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_REDIS_SECONDS", 0)
    with redis_server() as redis:
        one, two = (make(rate_limit_read="5/hour", redis_url=redis.url) for _ in range(2))
        token = one.token(await one.register("ada"))
        async with one.client(token) as first, two.client(token) as second:
            assert [await statuses(c, 1) for c in (first, second) * 3] == [[200]] * 5 + [[429]]
            redis.kill()
            assert await statuses(first, 6) == [200] * 5 + [429]
            assert await statuses(second, 6) == [200] * 5 + [429]
            redis.start()  # empty: the shared count restarts
            assert [await statuses(c, 1) for c in (first, second) * 3] == [[200]] * 5 + [[429]]


async def test_redis_that_hangs_delays_one_request_and_fails_none(make: Make) -> None:
    with redis_server() as redis:
        secured = make(rate_limit_read="100000/hour", redis_url=redis.url)
        token = secured.token(await secured.register("ada"))
        async with secured.client(token) as client:
            assert await statuses(client, 1) == [200]
            redis.hang()
            slow = time.perf_counter()
            assert await statuses(client, 10) == [200] * 10
            assert time.perf_counter() - slow < 10 * 0.25  # the timeout that each would wait for
            redis.resume()

            async def is_counted_in_redis() -> bool:
                return int((await client.get(TASKS)).headers["ratelimit-remaining"]) >= 99_995

            await eventually("counting in Redis", is_counted_in_redis)


async def command_count(redis: RedisServer) -> int:
    from redis.asyncio import Redis

    async with Redis.from_url(redis.url) as client:
        return int((await client.info("stats"))["total_commands_processed"])


async def test_requests_without_a_limit_do_not_call_redis(make: Make) -> None:
    with redis_server() as redis:
        secured = make(redis_url=redis.url)
        token = secured.token(await secured.register("ada"))
        async with secured.client(token) as client:
            assert await statuses(client, 5, "GET", "/api/v1/auth/me") == [200] * 5
            assert secured.app.state.limits._shared._redis is None
        limited = make(redis_url=redis.url, rate_limit_read="100/hour")
        async with limited.client(token) as client:
            await client.get("/api/v1/auth/me")
            before = await command_count(redis)
            assert await statuses(client, 5, "GET", "/api/v1/auth/me") == [200] * 5
            measurement = await command_count(redis) - await command_count(
                redis
            )  # the cost of the measurement, negative
            assert (
                await command_count(redis) - before <= 5 * 3 - 3 * measurement
            )  # per request a script and its two commands


@pytest.mark.parametrize(
    "text", ["many", "0/minute", "-1/minute", "5/fortnight", "5", "/minute", "5/0 minute", "1.5/s"]
)
async def test_invalid_limits_are_rejected_by_name(text: str) -> None:
    for kind in ("read", "write", "login", "upload"):
        overrides: dict[str, Any] = {f"rate_limit_{kind}": text}
        with pytest.raises(ValidationError) as refused:
            settings_for("postgresql://h/x", **overrides)
        assert refused.value.errors()[0]["loc"] == (f"rate_limit_{kind}",)


async def test_limits_accept_several_notations(make: Make) -> None:
    for text in ("600/minute", "5 / 10 seconds", "1000/day", "7/hour"):
        make(rate_limit_read=text)
    assert settings_for("postgresql://h/x", rate_limit_login="none").rate_limit_login is None
