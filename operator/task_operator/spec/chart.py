"""The chart's values: the workload, and what only an installation by Helm has."""

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
    """A Secret made from values, for trying things out; prefer one that you manage."""

    create: bool = Field(
        default=False, description="Whether the chart makes a Secret of the values below."
    )
    database_url: str = Field(
        default="",
        max_length=2048,
        description="URL of the database, postgresql://…; required when neither database.secretRef nor "
        "postgresql.enabled names one.",
    )
    redis_url: str = Field(
        default="", max_length=2048, description="URL of Redis or Valkey, redis://…; may be empty."
    )
    secret_key: str = Field(
        default="",
        max_length=1024,
        description="What signs the tokens, at least 32 characters, made by openssl rand -hex 32; required where "
        "auth.secretRef is and names none.",
    )
    admin_username: str = Field(
        default="",
        max_length=100,
        description="Name of the administrator who is made while there is none; may be empty.",
    )
    admin_password: str = Field(
        default="",
        max_length=200,
        description="That administrator's first password; required with a name.",
    )


class Persistence(SpecModel):
    """The volume of the bundled database."""

    enabled: bool = Field(
        default=True, description="Whether data survives the pod (a PersistentVolumeClaim)."
    )
    size: Quantity = Field(default="1Gi", description="Size of the volume.")
    storage_class_name: str | None = Field(
        default=None, max_length=253, pattern=DNS_SUBDOMAIN, description="Its class; unset is the cluster's default.",
        examples=["standard"],
    )  # fmt: skip


class PostgreSQL(SpecModel):
    """A PostgreSQL in the cluster, for development: one pod, no backup."""

    enabled: bool = Field(default=False, description="Whether the chart brings a PostgreSQL.")
    image: str = Field(
        default="docker.io/library/postgres:17",
        min_length=1,
        max_length=512,
        description="Its image.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull it."
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
        default=300, ge=20, le=5000, description="Connections that it takes."
    )
    persistence: Persistence = Field(default=Persistence(), description="Its volume.")
    # Two API pods and two workers under full load hold 80 connections, of 7 MiB each.
    resources: Resources = Field(
        default=Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"memory": "1Gi"}),
        description="CPU and memory of the container.",
    )


class Valkey(SpecModel):
    """A Valkey in the cluster, for development: one pod, nothing kept."""

    enabled: bool = Field(default=False, description="Whether the chart brings a Valkey.")
    image: str = Field(
        default="docker.io/valkey/valkey:8", min_length=1, max_length=512, description="Its image."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull it."
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "20m", "memory": "32Mi"}, limits={"memory": "128Mi"}),
        description="CPU and memory of the container.",
    )


class Operator(SpecModel):
    """The operator, as the NetworkPolicies see it."""

    namespace: str = Field(
        default="",
        max_length=63,
        pattern=f"^$|{DNS_LABEL}",
        description="Namespace of the operator, whose pods may then connect to port 8081; empty: no operator.",
    )
    pod_labels: Labels = Field(
        default={"app.kubernetes.io/name": "task-operator"},
        description="Labels of the operator's pods.",
    )


class JsonWebKeySet(SpecModel):
    """Public keys."""

    keys: list[dict[str, Any]] = Field(max_length=50, description="The keys, as in RFC 7517.")


class TrustedIssuer(SpecModel):
    """An issuer of tokens that the routes under /internal take."""

    issuer: str = Field(min_length=1, description="Claim iss of the tokens.")
    audience: str = Field(min_length=1, description="Claim aud of the tokens.")
    subject: str = Field(min_length=1, description="Claim sub of the tokens: who is let in.")
    role: Literal["operator"] = Field(default="operator", description="What the subject may do.")
    jwks: JsonWebKeySet = Field(description="Keys that sign the tokens.")


class ChartValues(Workload):
    """Values of the chart task-service."""

    secret: Secret = Field(default=Secret(), description="A Secret made from values.")
    postgresql: PostgreSQL = Field(
        default=PostgreSQL(), description="A PostgreSQL in the cluster, for development."
    )
    valkey: Valkey = Field(
        default=Valkey(), description="A Valkey in the cluster, for development."
    )
    operator: Operator = Field(
        default=Operator(), description="The operator, as the NetworkPolicies see it."
    )
    trusted_issuers: list[TrustedIssuer] = Field(
        default=[],
        max_length=20,
        description="Issuers whose tokens the routes under /internal take; without one they are closed. The operator "
        "sets this for its instances.",
        json_schema_extra=LIST_ATOMIC,
    )
