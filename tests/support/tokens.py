"""An issuer of ServiceAccount tokens for tests: keys of its own, tokens of any content, and the
file that trusts it.
"""

import json
import time
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://kubernetes.default.svc"
AUDIENCE = "task-service/tenant/demo"
SUBJECT = "system:serviceaccount:operators:task-operator"


class TokenIssuer:
    """Signs with one key at a time."""

    def __init__(
        self,
        key_id: str = "one",
        algorithm: Literal["RS256", "ES256"] = "RS256",
        issuer: str = ISSUER,
    ) -> None:
        self.key_id, self.algorithm, self.issuer = key_id, algorithm, issuer
        self.key: Any = (
            rsa.generate_private_key(65537, 2048)
            if algorithm == "RS256"
            else ec.generate_private_key(ec.SECP256R1())
        )

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        maker = (
            jwt.algorithms.RSAAlgorithm if self.algorithm == "RS256" else jwt.algorithms.ECAlgorithm
        )
        public: dict[str, Any] = json.loads(maker.to_jwk(self.key.public_key()))
        return public | {"kid": self.key_id, "alg": self.algorithm, "use": "sig"}

    def token(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is good unless `claims` (None: leave out) or `headers` make it another one."""
        now = int(time.time())
        content = {
            "iss": self.issuer,
            "aud": [AUDIENCE],
            "sub": SUBJECT,
            "iat": now,
            "exp": now + 600,
        } | claims
        content = {name: value for name, value in content.items() if value is not None}
        named = {"kid": self.key_id, "typ": "JWT"} | (headers or {})
        given = {name: value for name, value in named.items() if value is not None}
        # PyJWS, because PyJWT refuses to write some of the tokens that a service must refuse to
        # read.
        return jwt.PyJWS().encode(
            json.dumps(content).encode(), self.key, self.algorithm, headers=given
        )

    def entry(self, **fields: Any) -> dict[str, Any]:
        """Its entry in the trust file."""
        entry = {
            "issuer": self.issuer,
            "audience": AUDIENCE,
            "subject": SUBJECT,
            "role": "operator",
        }
        return entry | {"jwks": {"keys": [self.jwk]}} | fields


def unsigned_token(claims: dict[str, Any], **headers: str) -> str:
    """Return a token with `alg: none` and an empty signature."""
    no_key: Any = None
    return jwt.encode(claims, no_key, "none", headers=dict(headers))


def write_trust(path: Path, *entries: dict[str, Any]) -> Path:
    """Write the trust file, as a whole at once."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"issuers": list(entries)}))
    fresh.replace(path)
    return path
