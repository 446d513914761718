"""Who may call `/internal`: bearers of a ServiceAccount token of a trusted issuer.

Service pods have no token themselves and cannot ask the API server for its keys, so the keys come in a mounted file. It
is read again when it changes, and when a token is signed by a key that it did not have.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from task_service.domain.errors import DomainError

log = structlog.get_logger(__name__)

ALGORITHMS = ("RS256", "ES256")
LEEWAY_SECONDS = 10
REQUIRED = ["exp", "iss", "aud", "sub"]
TOKEN_MAX = 8192


class InternalClosedError(DomainError):
    """No issuer is trusted, so nobody can call."""

    code = "internal_closed"

    def __init__(self) -> None:
        super().__init__("No token issuer is trusted here (TRUSTED_ISSUERS_FILE), so internal routes are closed.")


class UnauthorizedError(DomainError):
    """There is no token, or not a good one."""

    code = "unauthorized"


class ForbiddenError(DomainError):
    """The token is good, but its bearer has no right here."""

    code = "forbidden"


class KeySet(BaseModel):
    """Public keys as RFC 7517 has them."""

    keys: list[dict[str, Any]]


class Issuer(BaseModel):
    """Whose tokens are trusted, for whom, and what their bearer may do."""

    model_config = ConfigDict(frozen=True)

    issuer: str
    audience: str
    subject: str
    role: str
    jwks: KeySet

    def key(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The key with this id, if it is one for this algorithm."""
        for key in self.jwks.keys:
            if key.get("kid") == key_id:
                try:
                    return jwt.PyJWK(key, algorithm=algorithm)
                except jwt.PyJWTError:
                    return None
        return None


class TrustFile(BaseModel):
    """The mounted file."""

    issuers: list[Issuer]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it was."""

    subject: str
    role: str


class Trust:
    """The trusted issuers of one file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._issuers: tuple[Issuer, ...] = ()

    def authenticate(self, authorization: str | None, role: str) -> Caller:
        """Check a request's `Authorization`. Raises InternalClosedError, UnauthorizedError, ForbiddenError."""
        self._refresh()
        if not self._issuers:
            raise InternalClosedError
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_MAX:
            raise UnauthorizedError("Send Authorization: Bearer with a ServiceAccount token.")
        issuer, claims = self._verify(token.strip())
        if claims["sub"] != issuer.subject or issuer.role != role:
            raise ForbiddenError("The token's bearer has no right to this.")
        return Caller(claims["sub"], issuer.role)

    def _verify(self, token: str) -> tuple[Issuer, dict[str, Any]]:
        try:
            header = jwt.get_unverified_header(token)
            name = jwt.decode(token, options={"verify_signature": False}).get("iss")
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS or not isinstance(key_id, str):
                raise UnauthorizedError("The token is not signed as it should be.")
            candidates = self._with_key(name, key_id, algorithm)
            for issuer, key in candidates[:-1]:
                try:
                    return issuer, _decode(token, issuer, key)
                except jwt.InvalidAudienceError:
                    continue
            issuer, key = candidates[-1]
            return issuer, _decode(token, issuer, key)
        except jwt.PyJWTError as error:
            log.info("token_refused", error=str(error))
            raise UnauthorizedError(f"The token is not valid: {error}.") from None

    def _with_key(self, name: Any, key_id: str, algorithm: str) -> list[tuple[Issuer, jwt.PyJWK]]:
        for again in (False, True):
            if again:
                self._refresh(force=True)
            found = [(i, k) for i in self._issuers if i.issuer == name and (k := i.key(key_id, algorithm))]
            if found:
                return found
        raise UnauthorizedError("The token's issuer or its key is not known here.")

    def _refresh(self, *, force: bool = False) -> None:
        """Read the file when it has changed. One that cannot be read changes nothing; one that is gone closes."""
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp and not force:
                return
            self._issuers = tuple(TrustFile.model_validate(orjson.loads(self._path.read_bytes())).issuers)
            self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._issuers = None, ()
        except (OSError, orjson.JSONDecodeError, ValidationError) as error:
            log.warning("trusted_issuers_unreadable", path=str(self._path), error=str(error)[:500])


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
