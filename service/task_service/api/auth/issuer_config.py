"""The file of trusted issuers: its model and checks."""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import jwt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from task_service.domain.permissions import Role

ALGORITHMS = ("RS256", "ES256")
NAME_MAX = 200


class KeySet(BaseModel):
    """A JSON Web Key Set (RFC 7517)."""

    keys: list[dict[str, Any]]

    def key(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """Return the key with this id, if it is valid for this algorithm."""
        for key in self.keys:
            if key.get("kid") == key_id:
                try:
                    return jwt.PyJWK(key, algorithm=algorithm)
                except jwt.PyJWTError:
                    return None
        return None


class RoleMapping(BaseModel):
    """Mapping from values of a claim to roles. The highest role applies.

    `claim` may be a path, such as `realm_access.roles`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str
    values: dict[str, Role]
    default: Role | None = None

    def role_of(self, claims: dict[str, Any]) -> Role | None:
        """Return the role of a token's bearer, or the default if no value matches.

        >>> mapping = RoleMapping(claim="a.groups", values={"staff": "editor", "boss": "admin"})
        >>> mapping.role_of({"a": {"groups": ["staff", "boss"]}}), mapping.role_of({"a": 1})
        (<Role.ADMIN: 'admin'>, None)
        """
        found = _at(claims, self.claim)
        values = found if isinstance(found, list) else [found]
        roles = [
            self.values[value]
            for value in values
            if isinstance(value, str) and value in self.values
        ]
        return max(roles, key=list(Role).index, default=self.default)


class Issuer(BaseModel):
    """An issuer whose tokens are trusted, and the role of their bearers.

    With `subject` the entry applies to that subject only. `role` applies to every bearer, `roles`
    derives the role from a claim. The bearer's name is `name_prefix` plus the claim `name_claim`;
    without the prefix it could equal the name of one of our own users.
    """

    model_config = ConfigDict(frozen=True)

    issuer: str
    audience: str | list[str]
    subject: str | None = None
    role: str | None = None
    roles: RoleMapping | None = None
    name_claim: str = "sub"
    name_prefix: str = "oidc:"
    jwks: KeySet | None = None
    jwks_uri: str | None = Field(default=None, max_length=2000)

    @field_validator("jwks_uri")
    @classmethod
    def _is_safe(cls, uri: str | None) -> str | None:
        """Require HTTPS, except on loopback: plain HTTP does not authenticate keys."""
        parts = urlsplit(uri or "https://none")
        if not parts.hostname or (
            parts.scheme != "https" and not (parts.scheme == "http" and _is_here(parts.hostname))
        ):
            raise ValueError("must be an https URL")
        return uri

    @model_validator(mode="after")
    def _is_complete(self) -> "Issuer":
        if (self.jwks is None) == (self.jwks_uri is None):
            raise ValueError("an issuer has either jwks or jwks_uri")
        if (self.role is None) == (self.roles is None):
            raise ValueError("an issuer has either role or roles")
        return self

    def role_of(self, claims: dict[str, Any]) -> Role | None:
        """Return the bearer's role in the public API."""
        if self.roles is not None:
            return self.roles.role_of(claims)
        return Role(self.role) if self.role in list(Role) else None

    def name_of(self, claims: dict[str, Any]) -> str:
        """Return the bearer's name in histories."""
        name = _at(claims, self.name_claim)
        text = name if isinstance(name, str) and name else str(claims["sub"])
        return f"{self.name_prefix}{text}".replace("\x00", "")[:NAME_MAX]


class TrustFile(BaseModel):
    """Content of the mounted file."""

    issuers: list[Issuer]


def _at(claims: dict[str, Any], path: str) -> Any:
    """Return the claim with this name, or at this path; None if it does not exist."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
