"""Every route with every role, on the caller's tasks and on those of others, and without a token.

The routes come from the application. A route that requires no permission must be listed here.
"""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from task_service.api.security import rules_of
from task_service.domain.permissions import GRANTS, Permission, Role
from tests.support.secured_app import SecuredApp, bearer

pytestmark = pytest.mark.asyncio
PUBLIC = {
    "/", "/openapi.json", "/docs", "/redoc", "/docs/assets/start.js", "/docs/assets/swagger-ui-bundle.js",
    "/docs/assets/swagger-ui.css", "/docs/assets/redoc.standalone.js", "/docs/assets/favicon.png",
    "/api/v1/auth/token", "/api/v1/auth/refresh", "/compat/d/login", "/compat/d/token",
    "/health", "/compat/c/health",
}  # fmt: skip
"""Paths that need no authentication."""
AUTHENTICATED = {"/api/v1/auth/logout", "/api/v1/auth/me", "/api/v1/auth/password"}
"""Paths that need authentication but no particular role."""
ENDLESS = ("/events",)
"""Paths whose response does not end: only rejected requests are tested."""
OWN = Permission.CHANGE_OWN_TASKS


def routes(app: FastAPI) -> list[tuple[str, str, list[tuple[Permission, bool]]]]:
    """Return method, path and permission rules of every route."""
    return [
        (method, route.path, list(rules_of(route.dependant)) if isinstance(route, APIRoute) else [])
        for router in app.state.routers
        for route in router.routes
        for method in sorted(route.methods)
    ]


def protected_routes(app: FastAPI) -> Iterator[tuple[str, str, Permission, bool]]:
    """List the routes that require a permission, with the one that needs the highest role."""
    ranks = list(Role)
    for method, path, rules in routes(app):
        if rules:
            permission, always = max(rules, key=lambda rule: ranks.index(GRANTS[rule[0]].role))
            yield method, path, permission, always


class Callers:
    """Callers of every role, and requests on new tasks of theirs."""

    def __init__(self, secured: SecuredApp, client: httpx.AsyncClient) -> None:
        self.people, self.client = secured, client
        self.tokens: dict[str, str] = {}

    async def register_all(self) -> None:
        """Register the callers: one of each role, and another editor."""
        for name, role in (*((role.value, role) for role in Role), ("other", Role.EDITOR)):
            self.tokens[name] = self.people.token(await self.people.register(f"the-{name}", role))

    async def path_for(self, path: str, owner: str) -> str:
        """Fill the path with the ids of a new task of this caller, or with ids that do not exist."""
        names = {part.strip("{}").split("}")[0] for part in path.split("/") if "{" in part}
        values = {name: str(uuid4()) for name in names} | {"name": "default", "key": "some-key"}
        if "task_id" in names or "conversation_id" in names:
            headers = bearer(self.tokens[owner])
            body = {"title": "Ring", "conversations": [{"body": {"text": "hello"}}]}
            made = await self.client.post("/api/v1/tasks", json=body, headers=headers)
            values["task_id"] = made.json()["id"]
            found = await self.client.get(
                f"/api/v1/tasks/{values['task_id']}/conversations", headers=headers
            )
            values["conversation_id"] = found.json()["items"][0]["id"]
        return path.format(**values)

    async def send(self, method: str, path: str, token: str | None) -> httpx.Response:
        """Send the request with a body that most routes accept."""
        headers = bearer(token) if token else {}
        return await self.client.request(method, path, json=body_for(method, path), headers=headers)


def body_for(method: str, path: str) -> Any:
    if method in ("GET", "HEAD", "DELETE"):
        return None
    plain = path.rstrip("/")
    if plain.endswith("/conversations"):
        return {"body": {"text": "hello"}}
    if "/conversations/" in path:
        return {"status": "processed"}
    if ":" in plain.rsplit("/", 1)[-1]:
        return {}
    return {"title": "Ring Bob"}


@pytest.fixture
def secured_app(secured: SecuredApp) -> FastAPI:
    return secured.app


async def test_every_route_requires_a_permission_or_is_listed_as_open(secured_app: FastAPI) -> None:
    without = {path.rstrip("/") or "/" for _, path, rules in routes(secured_app) if not rules}
    assert without == PUBLIC | AUTHENTICATED
    assert len(list(protected_routes(secured_app))) > 100


async def test_missing_or_invalid_token_returns_401_on_every_protected_route(
    secured: SecuredApp,
) -> None:
    async with secured.client() as client:
        callers = Callers(secured, client)
        await callers.register_all()
        for method, path, rules in routes(secured.app):
            if not rules and path not in AUTHENTICATED:
                continue
            url = re.sub(r"{\w+}", str(uuid4()), path)
            for token in (None, "x.y.z", callers.tokens["admin"][:-4] + "abcd"):
                response = await callers.send(method, url, token)
                assert response.status_code == 401, (method, path, token, response.text)
                assert response.headers["www-authenticate"].startswith("Bearer"), (method, path)


async def test_unauthorized_callers_get_no_validation_errors(
    secured: SecuredApp,
) -> None:
    broken: dict[str, Any] = {
        "content": b"{" * 100,
        "headers": {"content-type": "application/json"},
    }
    viewer = await secured.register("eve", Role.VIEWER)
    async with secured.client() as nobody, secured.client(secured.token(viewer)) as client:
        for method, path, permission, _ in protected_routes(secured.app):
            url = re.sub(r"{\w+}", "x", path)
            response = await nobody.request(method, url, params={"nonsense": "1"}, **broken)
            assert response.status_code == 401, (method, path, response.text)
            if not Role.VIEWER.includes(GRANTS[permission].role):
                response = await client.request(method, url, params={"nonsense": "1"}, **broken)
                assert response.status_code == 403, (method, path, response.text)


async def test_body_of_an_unauthenticated_request_is_not_read(secured: SecuredApp) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 65_536

    async with secured.client() as client:
        response = await client.post(
            "/api/v1/tasks:batch", content=body(), headers={"content-type": "application/json"}
        )
    assert response.status_code == 401
    assert read == 0


async def test_each_role_has_exactly_its_documented_permissions(secured: SecuredApp) -> None:
    async with secured.client() as client:
        callers = Callers(secured, client)
        await callers.register_all()
        for method, path, permission, _ in protected_routes(secured.app):
            for role in Role:
                allowed = role.includes(GRANTS[permission].role)
                if allowed and path.endswith(ENDLESS):
                    continue
                owner = role.value if permission is OWN and role.includes(Role.EDITOR) else "other"
                url = (
                    await callers.path_for(path, owner)
                    if allowed
                    else re.sub(r"{\w+}", str(uuid4()), path)
                )
                response = await callers.send(method, url, callers.tokens[role])
                check(response, allowed, (method, path, role), GRANTS[permission].role)


async def test_editors_change_their_own_tasks_and_operators_change_all_tasks(
    secured: SecuredApp,
) -> None:
    async with secured.client() as client:
        callers = Callers(secured, client)
        await callers.register_all()
        seen = 0
        for method, path, permission, _ in protected_routes(secured.app):
            if permission is OWN:
                seen += 1
                for role in (Role.EDITOR, Role.OPERATOR, Role.ADMIN):
                    response = await callers.send(
                        method, await callers.path_for(path, "other"), callers.tokens[role]
                    )
                    check(
                        response,
                        role is not Role.EDITOR,
                        (method, path, role, "other"),
                        Role.OPERATOR,
                    )
        assert seen > 30


async def test_assignee_may_change_a_task(secured: SecuredApp) -> None:
    async with secured.client() as client:
        callers = Callers(secured, client)
        await callers.register_all()
        url = await callers.path_for("/api/v1/tasks/{task_id}", "other")
        await client.patch(
            url, json={"assigned_to": "the-editor"}, headers=bearer(callers.tokens["other"])
        )
        response = await client.patch(
            url, json={"title": "Mine"}, headers=bearer(callers.tokens["editor"])
        )
        assert response.status_code == 200, response.text


async def test_only_administrators_may_hard_delete(secured: SecuredApp) -> None:
    async with secured.client() as client:
        callers = Callers(secured, client)
        await callers.register_all()
        for role in Role:
            url = await callers.path_for(
                "/api/v1/tasks/{task_id}", role.value if role is not Role.VIEWER else "other"
            )
            response = await client.delete(
                url, params={"hard": "true"}, headers=bearer(callers.tokens[role])
            )
            needs = Role.EDITOR if role is Role.VIEWER else Role.ADMIN
            check(response, role is Role.ADMIN, ("DELETE", url, role), needs)


async def test_open_mode_requires_a_token_only_where_one_is_always_required(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    seen = 0
    for method, path, _, always in protected_routes(app):
        if always:
            seen += 1
            url = path.format_map({"task_id": uuid4()})
            response = await client.request(method, url, json=body_for(method, url))
            assert response.status_code == 401, (method, path, response.text)
    assert seen >= 8
    assert (await client.get("/api/v1/tasks")).status_code == 200


def check(response: httpx.Response, allowed: bool, what: object, needs: Role) -> None:
    if allowed:
        assert response.status_code not in (401, 403), (what, response.text)
        assert response.status_code < 500, (what, response.text)
    else:
        assert response.status_code == 403, (what, response.text)
        if response.request.method != "HEAD":
            assert needs.value in response.text, (what, response.text)
