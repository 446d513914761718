"""Values of the chart: the workload, and values that exist only in an installation with Helm."""

from typing import Any, Literal

from pydantic import Field

from task_operator.spec.base import (
    DNS_LABEL,
    DNS_SUBDOMAIN,
    LIST_ATOMIC,
    Labels,
    Quantity,
    SpecModel,
)
from task_operator.spec.pod import Resources
from task_operator.spec.workload import Workload

NAME = r"^[a-z_][a-z0-9_]*$"


class Secret(SpecModel):
    """A Secret created from the values, for trials; prefer a Secret that you manage yourself."""

    create: bool = Field(default=False, description="Create a Secret from the values below.")
    database_url: str = Field(
        default="",
        max_length=2048,
        description="URL of the database, postgresql://…. Required unless database.secretRef or "
        "postgresql.enabled is set.",
    )
    redis_url: str = Field(
        default="", max_length=2048, description="URL of Redis or Valkey, redis://…. May be empty."
    )
    secret_key: str = Field(
        default="",
        max_length=1024,
        description="Secret that signs tokens, at least 32 characters, such as the output of "
        "openssl rand -hex 32. Required where auth.secretRef is required, but not set.",
    )
    admin_username: str = Field(
        default="",
        max_length=100,
        description="Name of the first administrator, who is created if the database has no "
        "administrator. May be empty.",
    )
    admin_password: str = Field(
        default="",
        max_length=200,
        description="Initial password of the first administrator. Required together with the name.",
    )


class Persistence(SpecModel):
    """The volume of the bundled database."""

    enabled: bool = Field(
        default=True,
        description="Keep the data in a PersistentVolumeClaim, so that it survives the pod.",
    )
    size: Quantity = Field(default="1Gi", description="Size of the volume.")
    storage_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=DNS_SUBDOMAIN,
        description="StorageClass of the volume. Unset: the cluster's default.",
        examples=["standard"],
    )


class PostgreSQL(SpecModel):
    """A PostgreSQL server in the cluster, for development: one pod, no backup."""

    enabled: bool = Field(default=False, description="Run a PostgreSQL server in the cluster.")
    image: str = Field(
        default="docker.io/library/postgres:17",
        min_length=1,
        max_length=512,
        description="Image of PostgreSQL.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of the image."
    )
    user: str = Field(
        default="tasks", max_length=63, pattern=NAME, description="User of the service."
    )
    database: str = Field(
        default="tasks", max_length=63, pattern=NAME, description="Database of the service."
    )
    password: str = Field(
        default="",
        max_length=200,
        description="Password of the user; required. There is no default.",
    )
    max_connections: int = Field(
        default=300, ge=20, le=5000, description="Maximum number of connections."
    )
    persistence: Persistence = Field(default=Persistence(), description="Volume of the data.")
    # Two API pods and two workers under full load hold 80 connections, with 7 MiB each.
    resources: Resources = Field(
        default=Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"memory": "1Gi"}),
        description="CPU and memory of the container.",
    )


class Valkey(SpecModel):
    """A Valkey server in the cluster, for development: one pod, no persistence."""

    enabled: bool = Field(default=False, description="Run a Valkey server in the cluster.")
    image: str = Field(
        default="docker.io/valkey/valkey:8",
        min_length=1,
        max_length=512,
        description="Image of Valkey.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of the image."
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "20m", "memory": "32Mi"}, limits={"memory": "128Mi"}),
        description="CPU and memory of the container.",
    )


class Operator(SpecModel):
    """The operator, for the NetworkPolicies."""

    namespace: str = Field(
        default="",
        max_length=63,
        pattern=f"^$|{DNS_LABEL}",
        description="Namespace of the operator, whose pods may connect to port 8081. Empty: there "
        "is no operator.",
    )
    pod_labels: Labels = Field(
        default={"app.kubernetes.io/name": "task-operator"},
        description="Labels of the operator's pods.",
    )


class JsonWebKeySet(SpecModel):
    """Public keys."""

    keys: list[dict[str, Any]] = Field(max_length=50, description="The keys, as in RFC 7517.")


class TrustedIssuer(SpecModel):
    """An issuer of tokens that the routes under /internal accept."""

    issuer: str = Field(min_length=1, description="Claim iss of the tokens.")
    audience: str = Field(min_length=1, description="Claim aud of the tokens.")
    subject: str = Field(min_length=1, description="Claim sub of the accepted tokens.")
    role: Literal["operator"] = Field(default="operator", description="Role of the subject.")
    jwks: JsonWebKeySet = Field(description="Public keys of the issuer.")


class ChartValues(Workload):
    """Values of the chart task-service."""

    secret: Secret = Field(
        default=Secret(), description="A Secret created from the values, for trials."
    )
    postgresql: PostgreSQL = Field(
        default=PostgreSQL(), description="A PostgreSQL server in the cluster, for development."
    )
    valkey: Valkey = Field(
        default=Valkey(), description="A Valkey server in the cluster, for development."
    )
    operator: Operator = Field(
        default=Operator(), description="The operator, for the NetworkPolicies."
    )
    trusted_issuers: list[TrustedIssuer] = Field(
        default=[],
        max_length=20,
        description="Issuers whose tokens the routes under /internal accept. Empty: these routes "
        "reject all requests. The operator sets this value for its instances.",
        json_schema_extra=LIST_ATOMIC,
    )
