"""Response headers for browsers, CORS, and the text of internal errors."""

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
from tests.support.problems import check_problem
from tests.support.secured_app import KEY, SecuredApp, bearer, log_in
from tests.support.service_settings import settings_for
from tests.support.task_api import TASKS

pytestmark = pytest.mark.asyncio


PAGE = "https://app.example.com"
Make = Callable[..., SecuredApp]


@pytest_asyncio.fixture
async def make(database: str, engine: AsyncEngine, wakeups: Wakeups) -> AsyncIterator[Make]:
    """Function that creates applications with other settings."""
    made: list[FastAPI] = []

    def instance(**overrides: Any) -> SecuredApp:
        defaults: dict[str, Any] = {"secret_key": KEY, "auth_mode": "required"}
        settings = settings_for(database, **(defaults | overrides))
        app = create_app(settings, engine, wakeups)
        made.append(app)
        return SecuredApp(app)

    yield instance
    for app in made:
        await app.state.connections.stop()


def check_headers(response: httpx.Response, *, https_only: bool = False) -> None:
    """Assert that the headers of every response are present, each once."""
    found = response.headers
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
    if "authorization" in response.request.headers:
        assert found["cache-control"] == "no-store"


async def responses_of_every_kind(
    secured: SecuredApp, headers: dict[str, str] | None = None
) -> dict[int, httpx.Response]:
    """Return one response of each kind that the application sends, by status code."""

    async def fail() -> None:
        raise RuntimeError("cannot reach postgresql://ada:horse@db")

    secured.app.add_api_route("/fault", fail)
    ada = await secured.register("ada")
    token = bearer(secured.token(ada)) | (headers or {})
    async with secured.client() as client:
        task = (await client.post(TASKS, json={"title": "Ring"}, headers=token)).json()
        url = f"{TASKS}/{task['id']}"
        json_type = {"content-type": "application/json"}
        responses = [
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
            await client.post(TASKS, content=b"x" * 2_000_000, headers=token | json_type),
            await client.post(TASKS, content=b"x", headers=token | {"content-type": "text/plain"}),
            await client.post(TASKS, json={}, headers=token),
            await client.get("/fault", headers=headers),
            await client.delete(url, headers=token),
        ]
    return {response.status_code: response for response in responses}


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_every_kind_of_response_has_the_security_headers(
    make: Make, environment: str
) -> None:
    responses = await responses_of_every_kind(make(environment=environment))
    assert set(responses) >= {
        200,
        201,
        204,
        307,
        400,
        401,
        403,
        404,
        405,
        412,
        413,
        415,
        422,
        500,
    }, sorted(responses)
    for response in responses.values():
        check_headers(response, https_only=environment == "production")


async def test_rate_limited_and_failed_logins_have_the_security_headers(make: Make) -> None:
    secured = make(rate_limit_login="1/hour")
    async with secured.client() as client:
        for status in (401, 429):
            response = await log_in(client, "ada")
            assert response.status_code == status
            check_headers(response)


async def test_service_d_and_documentation_have_the_security_headers(make: Make) -> None:
    secured = make()
    async with secured.client() as client:
        for path in (
            "/task",
            "/docs",
            "/redoc",
            "/openapi.json",
            "/docs/assets/start.js",
            "/nothing",
        ):
            check_headers(await client.get(path))


async def test_allowed_origin_may_call_and_read_the_headers(make: Make) -> None:
    secured = make(cors_origins=f"{PAGE},http://localhost:3000/")
    responses = await responses_of_every_kind(secured, {"origin": PAGE})
    for status, response in responses.items():
        assert response.headers["access-control-allow-origin"] == PAGE, (
            status
        )  # otherwise a page cannot distinguish 401 from 500
        assert "Origin" in response.headers["vary"]
        assert "access-control-allow-credentials" not in response.headers
        exposed = response.headers["access-control-expose-headers"]
        assert {"ETag", "Location", "Retry-After", "RateLimit", "X-Request-Id"} <= set(
            exposed.split(", ")
        )


async def test_other_origins_get_no_cors_headers(make: Make) -> None:
    for origins in (PAGE, ""):
        secured = make(cors_origins=origins)
        async with secured.client() as client:
            for origin in (
                "https://evil.example.com",
                "null",
                f"{PAGE}.evil.com",
                PAGE.replace("https", "http"),
            ):
                response = await client.get("/openapi.json", headers={"origin": origin})
                assert response.status_code == 200
                assert "access-control-allow-origin" not in response.headers
                preflight = {"origin": origin, "access-control-request-method": "PATCH"}
                response = await client.options(TASKS, headers=preflight)
                assert "access-control-allow-origin" not in response.headers
                assert response.status_code in (400, 405)


async def test_preflight_needs_no_token_and_lists_methods_and_headers(
    make: Make,
) -> None:
    secured = make(cors_origins=PAGE, rate_limit_write="1/hour", rate_limit_read="1/hour")
    async with secured.client() as client:
        for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
            preflight = {
                "origin": PAGE, "access-control-request-method": method,
                "access-control-request-headers": "authorization, content-type, if-match, idempotency-key, traceparent",
            }  # fmt: skip
            response = await client.options(TASKS, headers=preflight)
            assert response.status_code == 200, response.text  # and is not counted by a rate limit
            assert response.headers["access-control-allow-origin"] == PAGE
            assert method in response.headers["access-control-allow-methods"]
            assert "authorization" in response.headers["access-control-allow-headers"].lower()
            assert response.headers["access-control-max-age"] == "600"
            assert "access-control-allow-credentials" not in response.headers
        bad = {
            "origin": PAGE,
            "access-control-request-method": "GET",
            "access-control-request-headers": "x-secret",
        }
        assert (await client.options(TASKS, headers=bad)).status_code == 400
        bad = {"origin": PAGE, "access-control-request-method": "TRACE"}
        assert (await client.options(TASKS, headers=bad)).status_code == 400


async def test_wildcard_origin_is_allowed_without_credentials(make: Make) -> None:
    secured = make(cors_origins="*")
    async with secured.client() as client:
        response = await client.get(
            "/openapi.json", headers={"origin": "https://anybody.example.com"}
        )
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        ({}, FAULT),
        ({"debug": True}, "RuntimeError: cannot reach postgresql://ada:horse@db"),
        # The service refuses to start with these settings. Even if it did, the text stays hidden.
        (
            {"debug": True, "environment": "production"},
            "Internal error. The log contains the details under the request id.",
        ),
    ],
    ids=["default", "DEBUG", "DEBUG in production"],
)
async def test_internal_error_shows_its_text_only_with_debug(
    make: Make, overrides: dict[str, Any], shown: str
) -> None:
    responses = await responses_of_every_kind(make(**overrides))
    assert check_problem(responses[500], 500, "internal")["detail"] == shown


async def test_debug_in_production_prevents_the_start() -> None:
    settings = settings_for(
        "postgresql://h/x",
        environment="production",
        debug=True,
        secret_key=KEY,
        auth_mode="required",
    )
    with pytest.raises(
        StartRefusedError, match="DEBUG exposes internal errors to callers: it must be off"
    ):
        refuse_bad_start(settings)


def sources(policy: str) -> dict[str, list[str]]:
    """Return the directives of a Content-Security-Policy."""
    return {name: rest for name, *rest in (part.split() for part in policy.split(";"))}


async def test_documentation_loads_nothing_from_other_origins(
    make: Make,
) -> None:
    secured = make()
    async with secured.client() as client:
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
            )  # nothing that script-src forbids
            for address in wanted:
                assert address.startswith("/"), address
                asset = await client.get(address)
                assert asset.status_code == 200, address
                assert len(asset.content) > 100, address
                if "/assets/" in address:
                    assert asset.headers["content-security-policy"] == CLOSED.decode()
                    assert asset.headers["cache-control"] == "public, max-age=86400"


async def test_openapi_document_has_no_duplicate_keys(make: Make) -> None:
    async with make().client() as client:
        text = (await client.get("/openapi.json")).text

    def check_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    document = json.loads(text, object_pairs_hook=check_unique)
    scheme = document["components"]["securitySchemes"]["log-in"]
    assert scheme["flows"]["password"]["tokenUrl"] == "/api/v1/auth/token"
    assert {} not in document["paths"]["/api/v1/tasks"]["get"]["security"]
    assert "security" not in document["paths"]["/api/v1/auth/token"]["post"]
