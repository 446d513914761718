"""Authentication: the mode, the Secret with the signing key, and external token issuers."""

from typing import Annotated, Literal

from pydantic import Field

from task_operator.spec.base import LIST_ATOMIC, DataKey, ResourceName, Rule, SpecModel


class AuthKeys(SpecModel):
    """Keys in the Secret, if they differ from the default names."""

    secret_key: DataKey = Field(
        default="secret-key",
        description="Key with the secret that signs tokens, at least 32 random characters.",
    )
    admin_username: DataKey = Field(
        default="admin-username",
        description="Key with the name of the first administrator, who is created if the database "
        "has no administrator. May be absent.",
    )
    admin_password: DataKey = Field(
        default="admin-password",
        description="Key with the initial password of the first administrator. May be absent.",
    )


class AuthSecretRef(SpecModel):
    """A Secret in the same namespace: the signing key and the first administrator."""

    name: ResourceName = Field(description="Name of the Secret.", examples=["task-service-auth"])
    keys: AuthKeys = Field(
        default=AuthKeys(), description="Keys in the Secret, if they differ from the default names."
    )


class JsonWebKey(SpecModel):
    """A public RSA or elliptic-curve key as defined in RFC 7517; private keys are rejected."""

    kty: Literal["RSA", "EC"] = Field(description="Type of the key.")
    kid: str = Field(
        min_length=1, max_length=512, description="Id of the key, as in the header of a token."
    )
    use: str | None = Field(default=None, max_length=16, description="Use of the key: sig.")
    alg: str | None = Field(
        default=None, max_length=16, description="Algorithm, such as RS256 or ES256."
    )
    n: str | None = Field(default=None, max_length=2048, description="Modulus of an RSA key.")
    e: str | None = Field(default=None, max_length=16, description="Exponent of an RSA key.")
    crv: str | None = Field(
        default=None, max_length=16, description="Curve of an EC key, such as P-256."
    )
    x: str | None = Field(default=None, max_length=128, description="Coordinate of an EC key.")
    y: str | None = Field(default=None, max_length=128, description="Coordinate of an EC key.")
    key_ops: list[Annotated[str, Field(max_length=16)]] | None = Field(
        default=None,
        alias="key_ops",
        max_length=8,
        description="Ignored.",
        json_schema_extra=LIST_ATOMIC,
    )
    x5c: list[Annotated[str, Field(max_length=8192)]] | None = Field(
        default=None,
        alias="x5c",
        max_length=8,
        description="Ignored.",
        json_schema_extra=LIST_ATOMIC,
    )
    x5t: str | None = Field(default=None, alias="x5t", max_length=128, description="Ignored.")
    x5t_s256: str | None = Field(
        default=None, alias="x5t#S256", max_length=128, description="Ignored."
    )


class IssuerKeys(SpecModel):
    """A static set of public keys."""

    keys: list[JsonWebKey] = Field(
        min_length=1, max_length=20, description="The keys.", json_schema_extra=LIST_ATOMIC
    )


Role = Literal["viewer", "editor", "operator", "admin"]


class RolesByClaim(SpecModel):
    """Mapping from the values of a claim to roles; the highest matching role applies."""

    claim: str = Field(
        min_length=1,
        max_length=200,
        description="Name of the claim, such as groups, or a path, such as realm_access.roles.",
    )
    values: dict[str, Role] = Field(
        min_length=1,
        max_length=100,
        description="Role for each value of the claim, such as staff: editor.",
    )
    default: Role | None = Field(
        default=None, description="Role if no value matches. Unset: such tokens are rejected."
    )


class AuthIssuer(SpecModel):
    """An external token issuer (OpenID Connect) and the roles of its users."""

    issuer: str = Field(
        min_length=1,
        max_length=512,
        description="Claim iss of the tokens, such as https://login.example.com.",
    )
    audience: str = Field(min_length=1, max_length=512, description="Claim aud of the tokens.")
    subject: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Claim sub of the tokens. Unset: any subject.",
    )
    role: Role | None = Field(default=None, description="Role of all tokens.")
    roles: RolesByClaim | None = Field(default=None, description="Roles by the values of a claim.")
    name_claim: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Claim with the user name. Unset: sub.",
    )
    name_prefix: str | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="Prefix of the user name, which keeps it distinct from local user names. "
        "Unset: oidc:.",
    )
    jwks_uri: str | None = Field(
        default=None,
        max_length=2000,
        pattern=r"^https://[^\s/]+[^\s]*$",
        description="URL of the public keys.",
    )
    jwks: IssuerKeys | None = Field(
        default=None,
        description="The public keys inline, as in the JSON that the issuer publishes. Quote the "
        'keys "n" and "y": YAML parses them unquoted as booleans.',
    )

    rules = (
        Rule(
            "has(self.role) != has(self.roles)",
            "auth.issuers: exactly one of role and roles must be set",
        ),
        Rule(
            "has(self.jwks) != has(self.jwksUri)",
            "auth.issuers: exactly one of jwks and jwksUri must be set",
        ),
    )


class Auth(SpecModel):
    """Authentication of API requests."""

    mode: Literal["required", "open"] = Field(
        default="required",
        description="required: a request needs a token. open: a request without a token has full "
        "access; for development only, rejected in production.",
    )
    secret_ref: AuthSecretRef | None = Field(
        default=None,
        description="Secret with the key that signs tokens. It is mounted as a file in the API "
        "pods only, and read again when it changes. A second line holds the previous key, whose "
        "tokens remain valid. Required unless mode is open and settings.environment is "
        "development.",
        examples=[{"name": "task-service-auth"}],
    )
    issuers: list[AuthIssuer] = Field(
        default=[],
        max_length=19,
        description="External issuers whose tokens the API accepts in addition to its own.",
        json_schema_extra=LIST_ATOMIC,
    )


OPEN = "has(self.auth) && has(self.auth.mode) && self.auth.mode == 'open'"
ENVIRONMENT = (
    "(has(self.settings) && has(self.settings.environment) "
    "? self.settings.environment : 'production')"
)
OPEN_RULE = Rule(
    f"!({OPEN}) || {ENVIRONMENT} != 'production'",
    "auth: mode must not be open when settings.environment is production (its default): "
    "name another environment, or set mode to required",
    ".auth.mode",
)
SECRET_RULE = Rule(
    f"(has(self.auth) && has(self.auth.secretRef)) || ({OPEN} && {ENVIRONMENT} == 'development')",
    "auth: secretRef is required unless mode is open and settings.environment is development: "
    "name a Secret with the key secret-key (openssl rand -hex 32)",
    ".auth.secretRef",
)
