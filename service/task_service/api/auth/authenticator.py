"""Authentication of bearer tokens: our own users, and identities of trusted issuers."""

from dataclasses import dataclass

from fastapi import Request

from task_service.api.auth.trusted_issuers import Trust
from task_service.domain.errors import InvalidTokenError, UnauthorizedError
from task_service.domain.principals import ANONYMOUS, Principal
from task_service.services.identity.tokens import Claims
from task_service.services.identity.users import Credentials
from task_service.store.users import LookUps


@dataclass(frozen=True, slots=True)
class Authenticator:
    """The authenticator of a process."""

    credentials: Credentials
    trust: Trust
    look_ups: LookUps
    open: bool

    async def principal(self, authorization: str | None) -> Principal:
        """Return the caller.

        Raises InvalidTokenError for an invalid token. Raises UnauthorizedError without a token,
        unless the mode is open.
        """
        if not authorization:
            if self.open:
                return ANONYMOUS
            raise UnauthorizedError(
                "Log in (POST /api/v1/auth/token), and send Authorization: Bearer with the token."
            )
        token = bearer_of(authorization)
        if self.trust.knows(token):
            return await self.trust.principal(token)
        return await self._user(self.credentials.tokens.read(token, "access"))

    def login_of(self, authorization: str | None) -> Claims | None:
        """Return the claims of our own access token; None for callers without one."""
        if not authorization or self.trust.knows(token := bearer_of(authorization)):
            return None
        return self.credentials.tokens.read(token, "access")

    async def _user(self, claims: Claims) -> Principal:
        """Return the user's present state, which may differ from the token's claims."""
        known = await self.look_ups.find(claims.user_id, claims.login_id)
        if known is None or known.token_version != claims.version or known.logged_out:
            raise InvalidTokenError("The token has been revoked; log in again.")
        return Principal(known.username, known.role, "user", claims.user_id)

    async def close(self) -> None:
        """Close the connections of the look-ups."""
        await self.look_ups.close()


def bearer_of(authorization: str) -> str:
    """Return the token of an `Authorization` header. Raises InvalidTokenError without one."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidTokenError("Send Authorization: Bearer with a token.")
    return token.strip()


async def get_authenticator(request: Request) -> Authenticator:
    """Return the process's authenticator, as a dependency."""
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator
