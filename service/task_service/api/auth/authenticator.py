"""Who a bearer is: a user of ours, or somebody whom a trusted issuer vouches for."""

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
    """Made once per process."""

    credentials: Credentials
    trust: Trust
    look_ups: LookUps
    open: bool

    async def principal(self, authorization: str | None) -> Principal:
        """The caller. Raises InvalidTokenError for a bad token, UnauthorizedError for none unless the mode is open."""
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
        """What our own access token says; None for callers who have none."""
        if not authorization or self.trust.knows(token := bearer_of(authorization)):
            return None
        return self.credentials.tokens.read(token, "access")

    async def _user(self, claims: Claims) -> Principal:
        """The user as the database knows them now: a token may say what was true once."""
        known = await self.look_ups.find(claims.user_id, claims.login_id)
        if known is None or known.token_version != claims.version or known.logged_out:
            raise InvalidTokenError("The token is not good any more; log in again.")
        return Principal(known.username, known.role, "user", claims.user_id)

    async def close(self) -> None:
        """Close the connections of the look-ups."""
        await self.look_ups.close()


def bearer_of(authorization: str) -> str:
    """The token in an `Authorization` header; InvalidTokenError when it has none."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidTokenError("Send Authorization: Bearer with a token.")
    return token.strip()


async def get_authenticator(request: Request) -> Authenticator:
    """The process's authenticator, as a dependency."""
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator
