"""An application that requires authentication, with helpers to register users and log in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from task_service.domain.ids import new_id
from task_service.domain.permissions import Role
from task_service.domain.principals import SYSTEM
from task_service.schemas.users import NewUser
from task_service.services.identity import users
from task_service.services.identity.tokens import Bearer
from task_service.services.transactions import TransactionManager
from task_service.store.users import UserRow

KEY = "f2b1c4e89a7d63508e1f2a3b4c5d6e7f-test-only"
PASSWORD = "correct horse battery"
ME = "/api/v1/auth/me"


@dataclass(frozen=True)
class SecuredApp:
    """An application with AUTH_MODE=required."""

    app: FastAPI

    async def register(
        self, name: str, role: Role | str = Role.EDITOR, password: str = PASSWORD
    ) -> UserRow:
        """Create a user, as an administrator does."""
        transactions: TransactionManager = self.app.state.transactions
        new = NewUser.model_validate({"username": name, "role": role, "password": password})
        credentials = self.app.state.authenticator.credentials
        return await users.register(transactions, credentials, new, SYSTEM)

    def token(self, user: UserRow) -> str:
        """Return an access token of the user, without a login."""
        bearer = Bearer(user.id, user.role, user.token_version, new_id())
        token: str = self.app.state.authenticator.credentials.tokens.access(bearer)
        return token

    @asynccontextmanager
    async def client(
        self, token: str | None = None, address: str = "127.0.0.1"
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Open a client with this token and this IP address."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(self.app, client=(address, 40_000))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://service", headers=headers
        ) as client:
            yield client


async def log_in(client: httpx.AsyncClient, name: str, password: str = PASSWORD) -> httpx.Response:
    """Request tokens for a username and password."""
    return await client.post("/api/v1/auth/token", data={"username": name, "password": password})


def bearer(token: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"authorization": f"Bearer {token}"}
