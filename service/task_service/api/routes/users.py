"""`/api/v1/users`: administrators register, list and change users."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel

from task_service.api.answers import answer, page
from task_service.api.auth.access import AuthorizedRoute, UserManager, allow
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.api.routes.auth import Security
from task_service.domain.permissions import Permission, Role
from task_service.schemas.responses import Page, PageQuery
from task_service.schemas.types import parse_id
from task_service.schemas.users import NewUser, UserChange
from task_service.services.identity import users as service
from task_service.store import users as store
from task_service.store.users import UserRow

PREFIX = "/api/v1/users"
router = APIRouter(route_class=AuthorizedRoute, prefix=PREFIX, tags=["users and tokens"])
MAY_MANAGE = Depends(allow(Permission.MANAGE_USERS))


class User(BaseModel):
    """A user of the service."""

    id: UUID
    username: str
    role: Role
    disabled: bool
    disabled_at: datetime | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None


def _show(user: UserRow) -> dict[str, Any]:
    shown = {name: getattr(user, name) for name in User.model_fields if name != "disabled"}
    return shown | {"disabled": user.disabled_at is not None}


async def user_id_of(user_id: Annotated[str, Path(description="The user's UUID.")]) -> UUID:
    """Parse the user id in the path."""
    return parse_id("user", user_id)


Id = Annotated[UUID, Depends(user_id_of)]


@router.post("", status_code=201, response_model=User, responses=documented(400, 409, 413, 415))
async def register_user(
    transactions: Transactions, caller: UserManager, security: Security, new: NewUser
) -> Response:
    """Register a user."""
    user = await service.register(transactions, security.credentials, new, caller)
    return answer(_show(user), 201, {"Location": f"{PREFIX}/{user.id}"})


@router.get("", response_model=Page[User], responses=documented(), dependencies=[MAY_MANAGE])
async def list_users(transactions: Transactions, query: Annotated[PageQuery, Query()]) -> Response:
    """Return one page of users, in order of registration."""
    async with transactions.read() as connection:
        rows, cursor = await store.list_users(connection, query.limit, query.cursor)
    return page(map(_show, rows), cursor)


@router.get("/{user_id}", response_model=User, responses=documented(404), dependencies=[MAY_MANAGE])
async def read_user(transactions: Transactions, user_id: Id) -> Response:
    """Return one user."""
    return answer(_show(await service.read_user(transactions, user_id)))


@router.patch("/{user_id}", response_model=User, responses=documented(400, 404, 409, 413, 415))
async def change_user(
    transactions: Transactions,
    caller: UserManager,
    security: Security,
    user_id: Id,
    change: UserChange,
) -> Response:
    """Change a user's role or password, or disable or enable the user.

    Omitted fields stay unchanged. Any change ends the user's logins.
    """
    return answer(
        _show(
            await service.change_user(transactions, security.credentials, user_id, change, caller)
        )
    )
