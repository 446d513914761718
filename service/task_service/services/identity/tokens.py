"""Our own tokens (JWT): what they say, and how they are signed and checked."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import jwt

from task_service.domain.errors import InvalidTokenError
from task_service.domain.ids import new_id
from task_service.domain.permissions import Role
from task_service.settings import Settings

Kind = Literal["access", "refresh"]
TOKEN_MAX = 8192
VERIFIED_MAX = 10_000
REQUIRED = ["iss", "aud", "sub", "role", "ver", "jti", "sid", "exp", "iat", "typ"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token of ours says: `login_id` is the log-in that it comes from, `token_id` its
    own id.
    """

    user_id: UUID
    login_id: UUID
    token_id: UUID
    role: Role
    version: int


@dataclass(frozen=True, slots=True)
class Bearer:
    """For whom a token is made."""

    user_id: UUID
    role: Role
    version: int
    login_id: UUID


class Tokens:
    """Makes and reads tokens. `keys` gives the secrets: the first signs, any of them is believed."""

    def __init__(
        self, settings: Settings, keys: Callable[[], tuple[str, ...]], clock: Callable[[], datetime]
    ) -> None:
        self._keys = keys
        self._algorithm = settings.algorithm
        self._issuer = settings.app_name
        self._clock = clock
        self._verified: dict[bytes, dict[str, Any]] = {}
        self._verified_by: tuple[str, ...] = ()
        self.access_life = timedelta(minutes=settings.access_token_expire_minutes)
        self.refresh_life = timedelta(days=settings.refresh_token_expire_days)

    @property
    def issuer(self) -> str:
        """The `iss` of our tokens."""
        return self._issuer

    def access(self, bearer: Bearer) -> str:
        """An access token."""
        return self._sign(bearer, "access", new_id(), self._clock() + self.access_life)

    def refresh(self, bearer: Bearer, token_id: UUID, expires_at: datetime) -> str:
        """The refresh token that the log-in's row calls the good one."""
        return self._sign(bearer, "refresh", token_id, expires_at)

    def read(self, token: str, kind: Kind) -> Claims:
        """Check signature, issuer, audience, time and type. Raises InvalidTokenError; revocation is
        not its matter.
        """
        claims = self._decode(token)
        if claims["typ"] != kind:
            raise InvalidTokenError(f"This is no {kind} token.")
        try:
            user_id, login_id, token_id = (UUID(claims[name]) for name in ("sub", "sid", "jti"))
            return Claims(user_id, login_id, token_id, Role(claims["role"]), int(claims["ver"]))
        except (ValueError, TypeError, AttributeError):
            raise InvalidTokenError("The token is not one of ours.") from None

    def _sign(self, bearer: Bearer, kind: Kind, token_id: UUID, expires_at: datetime) -> str:
        claims = {
            "iss": self._issuer, "aud": self._issuer, "sub": str(bearer.user_id), "role": str(bearer.role),
            "ver": bearer.version, "sid": str(bearer.login_id), "jti": str(token_id), "typ": kind,
            "iat": self._clock(), "exp": expires_at,
        }  # fmt: skip
        return jwt.encode(claims, self._keys()[0], self._algorithm)

    def _decode(self, token: str) -> dict[str, Any]:
        """The claims of a token. What was verified under the present keys is remembered, but for
        its time.
        """
        if len(token) > TOKEN_MAX:
            raise InvalidTokenError("The token is not valid.")
        keys, digest = self._keys(), sha256(token.encode(errors="replace")).digest()
        if keys != self._verified_by or len(self._verified) >= VERIFIED_MAX:
            self._verified_by, self._verified = keys, {}
        claims = self._verified.get(digest)
        if claims is None or not claims["iat"] <= time.time() < claims["exp"]:
            claims = self._verified[digest] = self._verify(token, keys)
        return claims

    def _verify(self, token: str, keys: tuple[str, ...]) -> dict[str, Any]:
        for key in keys:
            try:
                return jwt.decode(
                    token, key, algorithms=[self._algorithm], audience=self._issuer, issuer=self._issuer,
                    options={"require": REQUIRED},
                )  # fmt: skip
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise InvalidTokenError("The token has expired.") from None
            except jwt.PyJWTError:
                break
        raise InvalidTokenError("The token is not valid.")
