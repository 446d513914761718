"""Who may call the API: the mode, the Secret that signs tokens, and issuers of others' tokens."""

from typing import Annotated, Literal

from pydantic import Field

from task_operator.spec.base import LIST_ATOMIC, DataKey, ResourceName, Rule, SpecModel


class AuthKeys(SpecModel):
    """Keys of the Secret, where they are not called as usual."""

    secret_key: DataKey = Field(
        default="secret-key",
        description="Key whose value signs the tokens: at least 32 random characters.",
    )
    admin_username: DataKey = Field(
        default="admin-username",
        description="Key with the name of the administrator who is made while there is none; may be absent.",
    )
    admin_password: DataKey = Field(
        default="admin-password",
        description="Key with that administrator's first password; may be absent.",
    )


class AuthSecretRef(SpecModel):
    """A Secret in the same namespace with what the API signs tokens with, and its first administrator."""

    name: ResourceName = Field(description="Name of the Secret.", examples=["task-service-auth"])
    keys: AuthKeys = Field(
        default=AuthKeys(), description="Its keys, where they are not called as usual."
    )


class JsonWebKey(SpecModel):
    """A public key, RSA or of an elliptic curve, as in RFC 7517; a private one is refused."""

    kty: Literal["RSA", "EC"] = Field(description="Kind of the key.")
    kid: str = Field(
        min_length=1, max_length=512, description="Its id, which the header of a token names."
    )
    use: str | None = Field(default=None, max_length=16, description="What it is for: sig.")
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
    """Public keys that do not change by themselves."""

    keys: list[JsonWebKey] = Field(
        min_length=1, max_length=20, description="The keys.", json_schema_extra=LIST_ATOMIC
    )


Role = Literal["viewer", "editor", "operator", "admin"]


class RolesByClaim(SpecModel):
    """How a claim of a token tells its bearer's role; of several the highest counts."""

    claim: str = Field(
        min_length=1,
        max_length=200,
        description="The claim, such as groups; a path, such as realm_access.roles.",
    )
    values: dict[str, Role] = Field(
        min_length=1,
        max_length=100,
        description="Role for each value of the claim, such as staff: editor.",
    )
    default: Role | None = Field(
        default=None, description="Role when no value fits; unset: such bearers are refused."
    )


class AuthIssuer(SpecModel):
    """An issuer of tokens (OpenID Connect), and what their bearers may do."""

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
        description="Claim sub of the tokens; unset: any.",
    )
    role: Role | None = Field(default=None, description="Role of every bearer.")
    roles: RolesByClaim | None = Field(
        default=None, description="How a claim tells the bearer's role."
    )
    name_claim: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Claim that names the bearer; sub when unset.",
    )
    name_prefix: str | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="What stands before that name, so that no bearer has the name of a user; oidc: when unset.",
    )
    jwks_uri: str | None = Field(
        default=None,
        max_length=2000,
        pattern=r"^https://[^\s/]+[^\s]*$",
        description="Address of the public keys.",
    )
    jwks: IssuerKeys | None = Field(
        default=None,
        description="The public keys themselves, as the JSON that the issuer publishes (YAML takes a plain n or y for "
        'a no or yes: write "n" and "y").',
    )

    rules = (
        Rule("has(self.role) != has(self.roles)", "auth.issuers: exactly one of role and roles must be set"),
        Rule("has(self.jwks) != has(self.jwksUri)", "auth.issuers: exactly one of jwks and jwksUri must be set"),
    )  # fmt: skip


class Auth(SpecModel):
    """Who may call the API."""

    mode: Literal["required", "open"] = Field(
        default="required",
        description="open: who calls without a token may do everything; for development, refused in production.",
    )
    secret_ref: AuthSecretRef | None = Field(
        default=None,
        description="Secret with the key that signs tokens. Mounted as a file, in the pods of the API only, and read "
        "again when it changes: a second line is the key of before, whose tokens stay good. Required unless mode is "
        "open and settings.environment is development.",
        examples=[{"name": "task-service-auth"}],
    )
    issuers: list[AuthIssuer] = Field(
        default=[],
        max_length=19,
        description="Issuers whose tokens the API takes beside its own.",
        json_schema_extra=LIST_ATOMIC,
    )


OPEN = "has(self.auth) && has(self.auth.mode) && self.auth.mode == 'open'"
ENVIRONMENT = "(has(self.settings) && has(self.settings.environment) ? self.settings.environment : 'production')"
OPEN_RULE = Rule(
    f"!({OPEN}) || {ENVIRONMENT} != 'production'",
    "auth: mode must not be open when settings.environment is production (its default): name another environment, or "
    "set mode to required",
    ".auth.mode",
)
SECRET_RULE = Rule(
    f"(has(self.auth) && has(self.auth.secretRef)) || ({OPEN} && {ENVIRONMENT} == 'development')",
    "auth: secretRef is required unless mode is open and settings.environment is development: name a Secret with the "
    "key secret-key (openssl rand -hex 32)",
    ".auth.secretRef",
)
