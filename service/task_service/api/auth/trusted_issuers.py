"""Trusted external token issuers: authentication of their bearers, and their roles.

A mounted file lists them. One is Kubernetes: the operator calls `/internal` with its ServiceAccount
token. Service pods cannot fetch the API server's keys, so the file contains them. Another is a
company's identity provider, whose keys come from its `jwks_uri`. The file is reloaded when it
changes, and when a token is signed by an unknown key.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import orjson
import structlog
from pydantic import ValidationError

from task_service.api.auth.issuer_config import ALGORITHMS, Issuer, TrustFile
from task_service.api.auth.jwks import KeySource
from task_service.domain.errors import (
    DomainError,
    ForbiddenError,
    InvalidTokenError,
    UnauthorizedError,
)
from task_service.domain.principals import Principal

log = structlog.get_logger(__name__)

LEEWAY_SECONDS = 10
REQUIRED = ["exp", "iss", "aud", "sub"]
TOKEN_MAX = 8192


class InternalClosedError(DomainError):
    """No issuer is trusted, so the internal routes are closed."""

    code = "internal_closed"

    def __init__(self) -> None:
        super().__init__("Internal routes are closed: TRUSTED_ISSUERS_FILE names no token issuer.")


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated bearer of a token."""

    subject: str
    role: str


class Trust:
    """The trusted issuers of a file."""

    def __init__(self, path: Path | None, source: KeySource | None = None) -> None:
        self._path = path
        self._source = source or KeySource()
        self._stamp: tuple[int, int, int] | None = None
        self._issuers: tuple[Issuer, ...] = ()

    def knows(self, token: str) -> bool:
        """Return whether a token names one of these issuers. Nothing is verified yet."""
        self._refresh()
        if not self._issuers:
            return False
        try:
            name = _unverified(token).get("iss")
        except jwt.PyJWTError:
            return False
        return any(issuer.issuer == name for issuer in self._issuers)

    async def principal(self, token: str) -> Principal:
        """Return the bearer as a caller of the API. Raises InvalidTokenError, ForbiddenError."""
        await self.fetch_keys(token)
        issuer, claims = self._verify(token)
        role = issuer.role_of(claims)
        if role is None:
            raise ForbiddenError("The token's bearer has no role in this service.")
        return Principal(issuer.name_of(claims), role, "issuer")

    def authenticate(self, authorization: str | None, role: str) -> Caller:
        """Verify the `Authorization` header of a call to `/internal`, which one subject may call.

        Raises InternalClosedError, UnauthorizedError, ForbiddenError.
        """
        self._refresh()
        if not self._issuers:
            raise InternalClosedError
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError("Send Authorization: Bearer with a ServiceAccount token.")
        issuer, claims = self._verify(token.strip())
        if issuer.subject is None or issuer.role != role:
            raise ForbiddenError("The token's bearer may not call this operation.")
        return Caller(claims["sub"], issuer.role)

    async def fetch_keys(self, token: str) -> None:
        """Fetch the keys of the token's issuer if it publishes them at a URL. Raises nothing."""
        self._refresh()
        try:
            name, key_id = (
                _unverified(token).get("iss"),
                jwt.get_unverified_header(token).get("kid"),
            )
        except jwt.PyJWTError:
            return
        for issuer in self._issuers:
            if issuer.issuer == name and issuer.jwks_uri is not None:
                await self._source.look_for(issuer.jwks_uri, key_id)

    def _verify(self, token: str) -> tuple[Issuer, dict[str, Any]]:
        """Return the issuer that matches signature, audience and subject, and the claims."""
        if len(token) > TOKEN_MAX:
            raise InvalidTokenError("The token is too long.")
        other: Exception = InvalidTokenError("The token's issuer or key is unknown.")
        try:
            for issuer, key in self._candidates(token):
                try:
                    claims = _decode(token, issuer, key)
                except jwt.InvalidAudienceError as error:
                    other = (
                        other
                        if isinstance(other, ForbiddenError)
                        else InvalidTokenError(f"{error}.")
                    )
                    continue
                if issuer.subject in (None, claims["sub"]):
                    return issuer, claims
                other = ForbiddenError("The token's bearer may not call this operation.")
        except jwt.PyJWTError as error:
            other = InvalidTokenError(f"The token is not valid: {error}.")
        log.info("token_refused", error=str(other))
        raise other

    def _candidates(self, token: str) -> Iterator[tuple[Issuer, jwt.PyJWK]]:
        header = jwt.get_unverified_header(token)
        name, algorithm, key_id = (
            _unverified(token).get("iss"),
            header.get("alg"),
            header.get("kid"),
        )
        if algorithm not in ALGORITHMS or not isinstance(key_id, str):
            return
        found = list(self._with_key(name, key_id, algorithm))
        if not found:
            self._refresh(force=True)
            found = list(self._with_key(name, key_id, algorithm))
        yield from found

    def _with_key(
        self, name: Any, key_id: str, algorithm: str
    ) -> Iterator[tuple[Issuer, jwt.PyJWK]]:
        for issuer in self._issuers:
            if issuer.issuer == name:
                keys = issuer.jwks or self._source.keys(issuer.jwks_uri)
                key = keys.key(key_id, algorithm) if keys else None
                if key is not None:
                    yield issuer, key

    def _refresh(self, *, force: bool = False) -> None:
        """Reload a changed file.

        An unreadable file keeps the previous issuers. A deleted one removes them all.
        """
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp and not force:
                return
            self._issuers = tuple(
                TrustFile.model_validate(orjson.loads(self._path.read_bytes())).issuers
            )
            self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._issuers = None, ()
        except (OSError, orjson.JSONDecodeError, ValidationError) as error:
            log.warning("trusted_issuers_unreadable", path=str(self._path), error=str(error)[:500])


def _unverified(token: str) -> dict[str, Any]:
    if len(token) > TOKEN_MAX:
        raise jwt.DecodeError("too long")
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _decode(token: str, issuer: Issuer, key: jwt.PyJWK) -> dict[str, Any]:
    return jwt.decode(
        token,
        key,
        algorithms=list(ALGORITHMS),
        audience=issuer.audience,
        issuer=issuer.issuer,
        leeway=LEEWAY_SECONDS,
        options={"require": REQUIRED},
    )
