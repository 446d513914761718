"""Every route of the application for every role, on one's own tasks and on others', and without a token.

The routes come from the application itself: one that asks for no permission, and is not listed here as open to
everybody, fails.
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
from tests.support.people import People, bearer

pytestmark = pytest.mark.asyncio
EVERYBODY = {
    "/", "/openapi.json", "/docs", "/redoc", "/docs/assets/start.js", "/docs/assets/swagger-ui-bundle.js",
    "/docs/assets/swagger-ui.css", "/docs/assets/redoc.standalone.js", "/docs/assets/favicon.png",
    "/api/v1/auth/token", "/api/v1/auth/refresh", "/compat/d/login", "/compat/d/token",
    "/health", "/compat/c/health",
}  # fmt: skip
"""Who they are nobody asks here."""
WHO_IS_KNOWN = {"/api/v1/auth/logout", "/api/v1/auth/me", "/api/v1/auth/password"}
"""For every caller who is somebody, whatever their role."""
ENDLESS = ("/events",)
"""Answers that do not end: only their refusals are looked at."""
OWN = Permission.CHANGE_OWN_TASKS


def routes(app: FastAPI) -> list[tuple[str, str, list[tuple[Permission, bool]]]]:
    """Method, path and rules of every route."""
    return [
        (method, route.path, list(rules_of(route.dependant)) if isinstance(route, APIRoute) else [])
        for router in app.state.routers
        for route in router.routes
        for method in sorted(route.methods)
    ]


def guarded(app: FastAPI) -> Iterator[tuple[str, str, Permission, bool]]:
    """The routes that ask for a permission: the one that takes the highest role."""
    ranks = list(Role)
    for method, path, rules in routes(app):
        if rules:
            permission, always = max(rules, key=lambda rule: ranks.index(GRANTS[rule[0]].role))
            yield method, path, permission, always


class Stage:
    """Callers of every role, and fresh tasks of theirs."""

    def __init__(self, people: People, client: httpx.AsyncClient) -> None:
        self.people, self.client = people, client
        self.tokens: dict[str, str] = {}

    async def fill(self) -> None:
        """Make the callers: one of each role, and another editor."""
        for name, role in (*((role.value, role) for role in Role), ("other", Role.EDITOR)):
            self.tokens[name] = self.people.token(await self.people.register(f"the-{name}", role))

    async def path_for(self, path: str, owner: str) -> str:
        """The path with ids in it: a fresh task, with a conversation, of this caller; else ids that nothing has."""
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

    async def ask(self, method: str, path: str, token: str | None) -> httpx.Response:
        """Make the request, with a body that most of the routes take."""
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
def app_of(people: People) -> FastAPI:
    return people.app


async def test_every_route_asks_for_a_permission_or_is_known_to_be_open(app_of: FastAPI) -> None:
    without = {path.rstrip("/") or "/" for _, path, rules in routes(app_of) if not rules}
    assert without == EVERYBODY | WHO_IS_KNOWN
    assert len(list(guarded(app_of))) > 100


async def test_without_a_good_token_every_other_route_answers_401(people: People) -> None:
    async with people.speaking() as client:
        stage = Stage(people, client)
        await stage.fill()
        for method, path, rules in routes(people.app):
            if not rules and path not in WHO_IS_KNOWN:
                continue
            url = re.sub(r"{\w+}", str(uuid4()), path)
            for token in (None, "x.y.z", stage.tokens["admin"][:-4] + "abcd"):
                answer = await stage.ask(method, url, token)
                assert answer.status_code == 401, (method, path, token, answer.text)
                assert answer.headers["www-authenticate"].startswith("Bearer"), (method, path)


async def test_nobody_hears_what_is_wrong_with_a_request_before_they_say_who_they_are(
    people: People,
) -> None:
    broken = {"content": b"{" * 100, "headers": {"content-type": "application/json"}}
    viewer = await people.register("eve", Role.VIEWER)
    async with people.speaking() as nobody, people.speaking(people.token(viewer)) as client:
        for method, path, permission, _ in guarded(people.app):
            url = re.sub(r"{\w+}", "x", path)
            answer = await nobody.request(method, url, params={"nonsense": "1"}, **broken)
            assert answer.status_code == 401, (method, path, answer.text)
            if not Role.VIEWER.includes(GRANTS[permission].role):
                answer = await client.request(method, url, params={"nonsense": "1"}, **broken)
                assert answer.status_code == 403, (method, path, answer.text)


async def test_a_body_over_the_limit_is_not_read_for_nobody(people: People) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 65_536

    async with people.speaking() as client:
        answer = await client.post(
            "/api/v1/tasks:batch", content=body(), headers={"content-type": "application/json"}
        )
    assert answer.status_code == 401
    assert read == 0


async def test_every_role_may_do_what_the_table_says_and_no_more(people: People) -> None:
    async with people.speaking() as client:
        stage = Stage(people, client)
        await stage.fill()
        for method, path, permission, _ in guarded(people.app):
            for role in Role:
                allowed = role.includes(GRANTS[permission].role)
                if allowed and path.endswith(ENDLESS):
                    continue
                owner = role.value if permission is OWN and role.includes(Role.EDITOR) else "other"
                url = (
                    await stage.path_for(path, owner)
                    if allowed
                    else re.sub(r"{\w+}", str(uuid4()), path)
                )
                answer = await stage.ask(method, url, stage.tokens[role])
                check(answer, allowed, (method, path, role), GRANTS[permission].role)


async def test_an_editor_changes_only_their_own_tasks_and_an_operator_everybodys(
    people: People,
) -> None:
    async with people.speaking() as client:
        stage = Stage(people, client)
        await stage.fill()
        seen = 0
        for method, path, permission, _ in guarded(people.app):
            if permission is OWN:
                seen += 1
                for role in (Role.EDITOR, Role.OPERATOR, Role.ADMIN):
                    answer = await stage.ask(
                        method, await stage.path_for(path, "other"), stage.tokens[role]
                    )
                    check(
                        answer,
                        role is not Role.EDITOR,
                        (method, path, role, "other"),
                        Role.OPERATOR,
                    )
        assert seen > 30


async def test_who_a_task_is_assigned_to_may_change_it(people: People) -> None:
    async with people.speaking() as client:
        stage = Stage(people, client)
        await stage.fill()
        url = await stage.path_for("/api/v1/tasks/{task_id}", "other")
        await client.patch(
            url, json={"assigned_to": "the-editor"}, headers=bearer(stage.tokens["other"])
        )
        answer = await client.patch(
            url, json={"title": "Mine"}, headers=bearer(stage.tokens["editor"])
        )
        assert answer.status_code == 200, answer.text


async def test_only_administrators_erase(people: People) -> None:
    async with people.speaking() as client:
        stage = Stage(people, client)
        await stage.fill()
        for role in Role:
            url = await stage.path_for(
                "/api/v1/tasks/{task_id}", role.value if role is not Role.VIEWER else "other"
            )
            answer = await client.delete(
                url, params={"hard": "true"}, headers=bearer(stage.tokens[role])
            )
            needs = Role.EDITOR if role is Role.VIEWER else Role.ADMIN
            check(answer, role is Role.ADMIN, ("DELETE", url, role), needs)


async def test_in_open_mode_only_what_always_asks_for_a_token_asks(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    seen = 0
    for method, path, _, always in guarded(app):
        if always:
            seen += 1
            url = path.format_map({"task_id": uuid4()})
            answer = await client.request(method, url, json=body_for(method, url))
            assert answer.status_code == 401, (method, path, answer.text)
    assert seen >= 8
    assert (await client.get("/api/v1/tasks")).status_code == 200


def check(answer: httpx.Response, allowed: bool, what: object, needs: Role) -> None:
    if allowed:
        assert answer.status_code not in (401, 403), (what, answer.text)
        assert answer.status_code < 500, (what, answer.text)
    else:
        assert answer.status_code == 403, (what, answer.text)
        if answer.request.method != "HEAD":
            assert needs.value in answer.text, (what, answer.text)
