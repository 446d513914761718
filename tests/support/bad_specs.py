"""Specs that must be refused, by the API server and by Helm alike, with a message that names the
field.
"""

from typing import Any, NamedTuple

from tests.support.helm import AUTH, MINIMAL

ENV = "extraEnv"
NO_SECRET = (
    "auth: secretRef is required unless mode is open and settings.environment is development: name a Secret with the "
    "key secret-key (openssl rand -hex 32)"
)
OPEN_IN_PRODUCTION = (
    "auth: mode must not be open when settings.environment is production (its default): name another environment, or "
    "set mode to required"
)


class Bad(NamedTuple):
    """A change of the smallest spec, and words that the refusal must have."""

    name: str
    change: dict[str, Any]
    words: tuple[str, ...]

    @property
    def spec(self) -> dict[str, Any]:
        return {k: v for k, v in (MINIMAL | self.change).items() if v is not None}


def _api(**change: Any) -> dict[str, Any]:
    return {"api": change}


def _issuer(**change: Any) -> dict[str, Any]:
    issuer: dict[str, Any] = {
        "issuer": "https://login.example.com",
        "audience": "tasks",
        "role": "viewer",
    }
    issuer |= {"jwksUri": "https://login.example.com/jwks"} | change
    return {
        "auth": AUTH
        | {"issuers": [{name: value for name, value in issuer.items() if value is not None}]}
    }


BAD = [
    Bad("an unknown field", {"wroker": {"replicas": 2}}, ("wroker",)),
    Bad("an unknown nested field", {"worker": {"replicsa": 2}}, ("replicsa",)),
    Bad("negative replicas", {"worker": {"replicas": -1}}, ("worker", "replicas", "-1")),
    Bad("replicas that are words", _api(replicas="two"), ("api", "replicas", "integer")),
    Bad(
        "minReplicas over maxReplicas",
        {"worker": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
        ("worker", "autoscaling: minReplicas must not be greater than maxReplicas"),
    ),
    Bad(
        "autoscaling without an upper bound",
        _api(autoscaling={"enabled": True}),
        ("api", "autoscaling: maxReplicas is required when enabled"),
    ),
    Bad("tokens asked for and no key to sign them", {"auth": None}, (NO_SECRET,)),
    Bad(
        "no key to sign tokens in staging",
        {"auth": {"mode": "open"}, "settings": {"environment": "staging"}},
        (NO_SECRET,),
    ),
    Bad(
        "a key to sign tokens without a name",
        {"auth": {"secretRef": {}}},
        ("auth", "secretRef", "name"),
    ),
    Bad(
        "a production that is open to everybody",
        {"auth": {"mode": "open"}, "settings": {"environment": "production"}},
        (OPEN_IN_PRODUCTION,),
    ),
    Bad(
        "the production that is not named, open",
        {"auth": {"mode": "open"}},
        ("auth: mode must not be open",),
    ),
    Bad(
        "an issuer whose bearers have no role",
        _issuer(role=None),
        ("auth.issuers: exactly one of role and roles must be set",),
    ),
    Bad(
        "an issuer without keys",
        _issuer(jwksUri=None),
        ("auth.issuers: exactly one of jwks and jwksUri must be set",),
    ),
    Bad("an issuer with a role that is none", _issuer(role="root"), ("issuers", "role", "viewer")),
    Bad(
        "keys over plain HTTP",
        _issuer(jwksUri="http://login.example.com/jwks"),
        ("issuers", "jwksUri"),
    ),
    Bad(
        "an issuer's private key",
        _issuer(jwksUri=None, jwks={"keys": [{"kty": "EC", "kid": "1", "d": "secret"}]}),
        ("issuers", "d"),
    ),
    Bad(
        "a rate that is none",
        {"settings": {"rateLimits": {"read": "often"}}},
        ("rateLimits", "read"),
    ),
    Bad(
        "an origin that is none",
        {"settings": {"corsOrigins": ["app.example.com"]}},
        ("corsOrigins",),
    ),
    Bad(
        "a proxy by its name",
        {"settings": {"trustedProxies": ["proxy.example.com"]}},
        ("trustedProxies",),
    ),
    Bad(
        "a cron of six fields",
        {"settings": {"dailyLog": {"cron": "0 5 0 * * *"}}},
        ("dailyLog", "cron"),
    ),
    Bad("a share over one", {"settings": {"otel": {"sampleRatio": 1.5}}}, ("otel", "sampleRatio")),
    Bad(
        "traces for nobody",
        {"settings": {"otel": {"enabled": True}}},
        ("settings.otel: endpoint is required when enabled",),
    ),
    Bad("no database", {"database": None}, ("database",)),
    Bad("a database without a reference", {"database": {}}, ("database", "secretRef")),
    Bad(
        "a reference without a name",
        {"database": {"secretRef": {"key": "url"}}},
        ("secretRef", "name"),
    ),
    Bad(
        "two disruption budgets",
        _api(podDisruptionBudget={"minAvailable": 1, "maxUnavailable": "10%"}),
        ("podDisruptionBudget: minAvailable and maxUnavailable exclude each other",),
    ),
    Bad(
        "heartbeats too far apart",
        {"settings": {"heartbeatSeconds": 6}},
        ("settings: heartbeatSeconds must be at most a third of leaseSeconds",),
    ),
    Bad(
        "least work over most work",
        {"settings": {"conversationsMinSeconds": 7.5}},
        ("settings: conversationsMinSeconds must not be greater than conversationsMaxSeconds",),
    ),
    Bad(
        "an ingress for no host",
        {"ingress": {"enabled": True}},
        ("ingress: hosts must name at least one host when enabled",),
    ),
    Bad(
        "a variable that the chart sets",
        _api(extraEnv=[{"name": "POD_UID", "value": "x"}]),
        ("extraEnv", "name is reserved: the chart sets this variable"),
    ),
    Bad(
        "a variable without a value",
        _api(extraEnv=[{"name": "A"}]),
        (ENV, "exactly one of value and valueFrom must be set"),
    ),
    Bad(
        "a variable with two sources",
        _api(
            extraEnv=[
                {
                    "name": "A",
                    "valueFrom": {
                        s: {"name": "s", "key": "k"} for s in ("secretKeyRef", "configMapKeyRef")
                    },
                }
            ]
        ),
        ("valueFrom must have exactly one of secretKeyRef and configMapKeyRef",),
    ),
    Bad(
        "an amount that is none", _api(resources={"requests": {"cpu": "lots"}}), ("requests", "cpu")
    ),
    Bad("a log level that is none", {"settings": {"logLevel": "LOUD"}}, ("logLevel",)),
    Bad("a queue with a comma", {"worker": {"queues": ["a,b"]}}, ("queues",)),
    Bad("a digest that is none", {"image": {"digest": "latest"}}, ("image", "digest")),
    Bad("a misspelt affinity", _api(affinity={"nodeAffinty": {}}), ("nodeAffinty",)),
    Bad("a raw pod setting", {"worker": {"hostNetwork": True}}, ("hostNetwork",)),
]
