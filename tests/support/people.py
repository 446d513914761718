"""Users of a secured application for tests: registered as the service does it, logged in or handed a token."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from task_service.domain.ids import new_id
from task_service.domain.permissions import Role
from task_service.domain.principals import SYSTEM
from task_service.schemas.users import NewUser
from task_service.services.context import Context
from task_service.services.identity import users
from task_service.services.identity.tokens import Bearer
from task_service.store.users import UserRow

KEY = "f2b1c4e89a7d63508e1f2a3b4c5d6e7f-test-only"
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class People:
    """The people of one application."""

    app: FastAPI

    async def register(
        self, name: str, role: Role | str = Role.EDITOR, password: str = PASSWORD
    ) -> UserRow:
        """Make a user as an administrator would."""
        context: Context = self.app.state.context
        new = NewUser.model_validate({"username": name, "role": role, "password": password})
        return await users.register(context, self.app.state.authenticator.credentials, new, SYSTEM)

    def token(self, user: UserRow) -> str:
        """An access token of theirs, without a log-in."""
        bearer = Bearer(user.id, user.role, user.token_version, new_id())
        token: str = self.app.state.authenticator.credentials.tokens.access(bearer)
        return token

    @asynccontextmanager
    async def speaking(
        self, token: str | None = None, address: str = "127.0.0.1"
    ) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the application that sends this token, from this address."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(self.app, client=(address, 40_000))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://service", headers=headers
        ) as client:
            yield client


async def log_in(client: httpx.AsyncClient, name: str, password: str = PASSWORD) -> httpx.Response:
    """Ask for tokens."""
    return await client.post("/api/v1/auth/token", data={"username": name, "password": password})


def bearer(token: str) -> dict[str, str]:
    """The header that brings a token."""
    return {"authorization": f"Bearer {token}"}
