"""What every answer says to browsers, which pages of other origins may call, and what a fault shows."""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.api.auth.first_admin import StartRefusedError, refuse_bad_start
from task_service.api.http.edge import FAULT
from task_service.api.http.headers import CLOSED
from task_service.queue.wakeups import Wakeups
from tests.integration.api.test_bad_input import check_problem
from tests.support.people import KEY, People, bearer, log_in
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.asyncio
TASKS = "/api/v1/tasks"
PAGE = "https://app.example.com"
Make = Callable[..., People]


@pytest_asyncio.fixture
async def make(database: str, engine: AsyncEngine, wakeups: Wakeups) -> AsyncIterator[Make]:
    """Makes applications with other settings."""
    made: list[FastAPI] = []

    def instance(**given: object) -> People:
        settings = settings_for(database, **({"secret_key": KEY, "auth_mode": "required"} | given))
        app = create_app(settings, engine, wakeups)
        made.append(app)
        return People(app)

    yield instance
    for app in made:
        await app.state.connections.stop()


def check_headers(answer: httpx.Response, *, https_only: bool = False) -> None:
    """The headers that every answer has, each once."""
    found = answer.headers
    assert found.get_list("x-content-type-options") == ["nosniff"]
    assert found.get_list("x-frame-options") == ["DENY"]
    assert found.get_list("referrer-policy") == ["no-referrer"]
    [policy] = found.get_list("content-security-policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", found["x-request-id"])
    assert found.get_list("strict-transport-security") == (
        ["max-age=31536000"] if https_only else []
    )
    assert "server" not in found
    if "authorization" in answer.request.headers:
        assert found["cache-control"] == "no-store"


async def every_kind(
    people: People, headers: dict[str, str] | None = None
) -> dict[int, httpx.Response]:
    """An answer of every kind that the application gives, by its status."""

    async def fail() -> None:
        raise RuntimeError("the pipe of postgresql://ada:horse@db burst")

    people.app.add_api_route("/fault", fail)
    ada = await people.register("ada")
    token = bearer(people.token(ada)) | (headers or {})
    async with people.speaking() as client:
        task = (await client.post(TASKS, json={"title": "Ring"}, headers=token)).json()
        url = f"{TASKS}/{task['id']}"
        big = {"content": b"x" * 2_000_000, "headers": token | {"content-type": "application/json"}}
        answers = [
            await client.get(url, headers=token),
            await client.post(TASKS, json={"title": "Ring"}, headers=token),
            await client.get("/", headers=headers),
            await client.get(url, headers=token | {"if-none-match": '"1"'}),
            await client.post(TASKS, content=b"{", headers=token),
            await client.get(TASKS, headers=headers),
            await client.get("/api/v1/users", headers=token),
            await client.get(f"{TASKS}/{ada.id}", headers=token),
            await client.post(f"{TASKS}/{task['id']}", headers=token),
            await client.patch(url, json={"title": "x"}, headers=token | {"if-match": '"99"'}),
            await client.post(TASKS, **big),
            await client.post(TASKS, content=b"x", headers=token | {"content-type": "text/plain"}),
            await client.post(TASKS, json={}, headers=token),
            await client.get("/fault", headers=headers),
            await client.delete(url, headers=token),
        ]
    return {answer.status_code: answer for answer in answers}


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_every_kind_of_answer_has_the_headers_for_browsers(
    make: Make, environment: str
) -> None:
    answers = await every_kind(make(environment=environment))
    assert set(answers) >= {200, 201, 204, 307, 400, 401, 403, 404, 405, 412, 413, 415, 422, 500}, (
        sorted(answers)
    )
    for answer in answers.values():
        check_headers(answer, https_only=environment == "production")


async def test_a_limit_and_a_bad_log_in_answer_with_the_headers_too(make: Make) -> None:
    people = make(rate_limit_login="1/hour")
    async with people.speaking() as client:
        for status in (401, 429):
            answer = await log_in(client, "ada")
            assert answer.status_code == status
            check_headers(answer)


async def test_service_d_and_the_documentation_have_the_headers_too(make: Make) -> None:
    people = make()
    async with people.speaking() as client:
        for path in (
            "/task",
            "/docs",
            "/redoc",
            "/openapi.json",
            "/docs/assets/start.js",
            "/nothing",
        ):
            check_headers(await client.get(path))


async def test_a_page_of_an_allowed_origin_may_call_and_read_the_headers(make: Make) -> None:
    people = make(cors_origins=f"{PAGE},http://localhost:3000/")
    answers = await every_kind(people, {"origin": PAGE})
    for status, answer in answers.items():
        assert answer.headers["access-control-allow-origin"] == PAGE, (
            status
        )  # else a page cannot tell 401 from 500
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
        exposed = answer.headers["access-control-expose-headers"]
        assert {"ETag", "Location", "Retry-After", "RateLimit", "X-Request-Id"} <= set(
            exposed.split(", ")
        )


async def test_a_page_of_another_origin_is_told_nothing(make: Make) -> None:
    for origins in (PAGE, ""):
        people = make(cors_origins=origins)
        async with people.speaking() as client:
            for origin in (
                "https://evil.example.com",
                "null",
                f"{PAGE}.evil.com",
                PAGE.replace("https", "http"),
            ):
                answer = await client.get("/openapi.json", headers={"origin": origin})
                assert answer.status_code == 200
                assert "access-control-allow-origin" not in answer.headers
                asked = {"origin": origin, "access-control-request-method": "PATCH"}
                answer = await client.options(TASKS, headers=asked)
                assert "access-control-allow-origin" not in answer.headers
                assert answer.status_code in (400, 405)


async def test_a_preflight_is_answered_without_a_token_and_says_what_may_be_sent(
    make: Make,
) -> None:
    people = make(cors_origins=PAGE, rate_limit_write="1/hour", rate_limit_read="1/hour")
    async with people.speaking() as client:
        for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
            asked = {
                "origin": PAGE, "access-control-request-method": method,
                "access-control-request-headers": "authorization, content-type, if-match, idempotency-key, traceparent",
            }  # fmt: skip
            answer = await client.options(TASKS, headers=asked)
            assert answer.status_code == 200, answer.text  # and none is counted for a limit
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert method in answer.headers["access-control-allow-methods"]
            assert "authorization" in answer.headers["access-control-allow-headers"].lower()
            assert answer.headers["access-control-max-age"] == "600"
            assert "access-control-allow-credentials" not in answer.headers
        bad = {
            "origin": PAGE,
            "access-control-request-method": "GET",
            "access-control-request-headers": "x-secret",
        }
        assert (await client.options(TASKS, headers=bad)).status_code == 400
        bad = {"origin": PAGE, "access-control-request-method": "TRACE"}
        assert (await client.options(TASKS, headers=bad)).status_code == 400


async def test_every_origin_may_be_allowed_and_then_none_by_its_name(make: Make) -> None:
    people = make(cors_origins="*")
    async with people.speaking() as client:
        answer = await client.get(
            "/openapi.json", headers={"origin": "https://anybody.example.com"}
        )
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, FAULT),
        ({"debug": True}, "RuntimeError: the pipe of postgresql://ada:horse@db burst"),
        # Such settings do not start at all; were they to, they would show nothing.
        (
            {"debug": True, "environment": "production"},
            "Something went wrong here; the log has it under the request id.",
        ),
    ],
    ids=["as ever", "DEBUG", "DEBUG in production"],
)
async def test_a_fault_shows_its_text_only_while_debug_is_on(
    make: Make, given: dict[str, Any], shown: str
) -> None:
    answers = await every_kind(make(**given))
    assert check_problem(answers[500], 500, "internal")["detail"] == shown


async def test_debug_in_production_does_not_start() -> None:
    settings = settings_for(
        "postgresql://h/x",
        environment="production",
        debug=True,
        secret_key=KEY,
        auth_mode="required",
    )
    with pytest.raises(
        StartRefusedError, match="DEBUG shows the inside of faults to callers: it must be off"
    ):
        refuse_bad_start(settings)


def sources(policy: str) -> dict[str, list[str]]:
    """The directives of a Content-Security-Policy."""
    return {name: rest for name, *rest in (part.split() for part in policy.split(";"))}


async def test_the_documentation_takes_nothing_from_elsewhere_and_its_policy_lets_nothing_in(
    make: Make,
) -> None:
    people = make()
    async with people.speaking() as client:
        for path in ("/docs", "/redoc"):
            page = await client.get(path)
            policy = sources(page.headers["content-security-policy"])
            assert (
                policy["default-src"]
                == policy["frame-ancestors"]
                == policy["base-uri"]
                == ["'none'"]
            )
            assert policy["script-src"] == policy["connect-src"] == ["'self'"]
            for values in policy.values():
                assert set(values) <= {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
            assert "'unsafe-inline'" not in policy["script-src"]
            wanted = re.findall(r'(?:src|href|data-url|spec-url)="([^"]+)"', page.text)
            assert len(wanted) >= 3
            assert not re.findall(
                r"<script(?![^>]*\bsrc=)[^>]*>|\son\w+=", page.text
            )  # none that script-src forbids
            for address in wanted:
                assert address.startswith("/"), address
                asset = await client.get(address)
                assert asset.status_code == 200, address
                assert len(asset.content) > 100, address
                if "/assets/" in address:
                    assert asset.headers["content-security-policy"] == CLOSED.decode()
                    assert asset.headers["cache-control"] == "public, max-age=86400"


async def test_the_openapi_document_has_no_name_twice(make: Make) -> None:
    async with make().speaking() as client:
        text = (await client.get("/openapi.json")).text

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    document = json.loads(text, object_pairs_hook=once)
    scheme = document["components"]["securitySchemes"]["log-in"]
    assert scheme["flows"]["password"]["tokenUrl"] == "/api/v1/auth/token"
    assert {} not in document["paths"]["/api/v1/tasks"]["get"]["security"]
    assert "security" not in document["paths"]["/api/v1/auth/token"]["post"]
