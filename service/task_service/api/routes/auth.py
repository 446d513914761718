"""`/api/v1/auth`: login, token refresh, logout, the current caller, and password changes."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from task_service.api.answers import answer
from task_service.api.auth.access import AuthorizedRoute, Caller
from task_service.api.auth.authenticator import Authenticator, get_authenticator
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.domain.permissions import Permission, Role
from task_service.domain.principals import Principal
from task_service.schemas.users import PasswordChange, RefreshRequest
from task_service.services.identity import users as service
from task_service.services.identity.users import Granted

PREFIX = "/api/v1/auth"
router = APIRouter(route_class=AuthorizedRoute, prefix=PREFIX, tags=["users and tokens"])


class PasswordForm(BaseModel):
    """Form of the OAuth 2.0 password grant (RFC 6749, 4.3). Scope and client are ignored."""

    model_config = ConfigDict(extra="ignore")

    grant_type: Literal["password"] = "password"
    username: Annotated[str, Field(min_length=1, max_length=200)]
    password: Annotated[SecretStr, Field(min_length=1, max_length=1000)]
    scope: str = ""
    client_id: str | None = None
    client_secret: SecretStr | None = None


class Tokens(BaseModel):
    """A pair of tokens.

    Send `access_token` as `Authorization: Bearer`; use `refresh_token` once to get the next pair.
    """

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int = Field(description="Lifetime of the access token, in seconds.")


class Me(BaseModel):
    """The caller of this request."""

    id: UUID | None = Field(description="Null for callers that are not users of this service.")
    username: str
    role: Role
    kind: Literal["anonymous", "user", "issuer", "system"]
    permissions: list[Permission]


async def count_login(request: Request) -> None:
    """Count a login attempt. Raises TooManyRequestsError."""
    await request.app.state.limits.count_login(request)


ATTEMPT = [Depends(count_login)]
Security = Annotated[Authenticator, Depends(get_authenticator)]


def _tokens(granted: Granted) -> Response:
    content = {
        "access_token": granted.access_token,
        "refresh_token": granted.refresh_token,
        "token_type": "bearer",
        "expires_in": granted.expires_in_seconds,
    }
    return answer(content, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})


@router.post(
    "/token", response_model=Tokens, responses=documented(400, 401, 413, 429), dependencies=ATTEMPT
)
async def log_in(
    transactions: Transactions, security: Security, form: Annotated[PasswordForm, Form()]
) -> Response:
    """Log in with a user name and a password."""
    granted = await service.log_in(
        transactions, security.credentials, form.username, form.password.get_secret_value()
    )
    return _tokens(granted)


@router.post(
    "/refresh",
    response_model=Tokens,
    responses=documented(400, 401, 413, 415, 429),
    dependencies=ATTEMPT,
)
async def refresh(transactions: Transactions, security: Security, body: RefreshRequest) -> Response:
    """Exchange a refresh token for the next pair of tokens.

    Using a refresh token twice ends the whole login, because somebody has a copy of the token.
    """
    return _tokens(
        await service.refresh(
            transactions, security.credentials, body.refresh_token.get_secret_value()
        )
    )


@router.post("/logout", status_code=204, response_class=Response, responses=documented())
async def log_out(
    request: Request,
    transactions: Transactions,
    security: Security,
    caller: Caller,  # noqa: ARG001
) -> Response:
    """End the login that issued the access token. Its refresh token ends too."""
    claims = security.login_of(request.headers.get("authorization"))
    if claims is not None:
        await service.log_out(transactions, claims.login_id)
    return Response(status_code=204)


@router.get("/me", response_model=Me, responses=documented())
async def read_me(caller: Caller) -> Response:
    """Return the caller and the caller's permissions."""
    return answer(_me(caller))


@router.post(
    "/password",
    response_model=Tokens,
    responses=documented(400, 409, 413, 415),
    dependencies=ATTEMPT,
)
async def change_password(
    transactions: Transactions, security: Security, caller: Caller, body: PasswordChange
) -> Response:
    """Change your own password. All your logins end; the response contains tokens of a new one."""
    return _tokens(
        await service.change_own_password(transactions, security.credentials, body, caller)
    )


def _me(caller: Principal) -> dict[str, object]:
    return {
        "id": caller.user_id,
        "username": caller.name,
        "role": caller.role,
        "kind": caller.kind,
        "permissions": [permission for permission in Permission if caller.may(permission)],
    }
