"""What the operator is told from outside: the only reader of the environment."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def _names(value: Any) -> Any:
    """Split a comma list, as environment variables carry it."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


class Settings(BaseModel):
    """Every setting of the operator; the environment variable is the field's name in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pod_namespace: str = Field(
        default="task-operator",
        description="Namespace of the operator, its Lease and its ServiceAccount.",
    )
    pod_name: str = Field(description="Identity of this replica in the Lease.")
    service_account: str = Field(
        default="task-operator", description="ServiceAccount whose tokens the services trust."
    )
    lease_name: str = Field(
        default="task-operator", description="Name of the Lease that the replicas compete for."
    )
    lease_seconds: float = Field(
        default=10, gt=0, description="How long a Lease holds without renewal."
    )
    renew_seconds: float = Field(
        default=6, gt=0, description="How long renewals may fail before the leader ends itself."
    )
    retry_seconds: float = Field(
        default=2, gt=0, description="Pause between two attempts at the Lease."
    )
    watch_namespaces: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(), description="Comma list of namespaces to serve; empty serves the whole cluster."
    )
    helm: str = Field(default="helm", description="The helm program.")
    chart: Path = Field(
        default=Path("/app/charts/task-service"), description="Folder of the workload's chart."
    )
    renders_at_once: int = Field(
        default=2, ge=1, description="How many helm processes run at the same time."
    )
    passes_at_once: int = Field(
        default=16, ge=1, description="How many TaskServices are worked on at the same time."
    )
    host: str = Field(default="0.0.0.0", description="Address of the probes and metrics.")  # noqa: S104
    port: int = Field(
        default=8082,
        ge=0,
        le=65535,
        description="Port of the probes and metrics; 0 takes a free one.",
    )
    management_port: int = Field(
        default=8081, ge=1, le=65535, description="Management port of the service's pods."
    )
    resync_seconds: float = Field(
        default=300,
        gt=0,
        description="Pause between two full listings, which find what a watch lost.",
    )
    survey_seconds: float = Field(
        default=15, gt=0, description="Pause between two looks at the instances without any event."
    )
    figures_seconds: float = Field(
        default=30, gt=0, description="Shortest time between two writes of the queue's figures."
    )
    trust_seconds: float = Field(
        default=300, gt=0, description="Pause between two readings of the cluster's signing keys."
    )
    drain_seconds: float = Field(
        default=5, ge=0, description="Longest wait for retired workers before replicas are lowered."
    )
    migration_retry_seconds: float = Field(
        default=10, gt=0, description="Pause before a failed migration's first retry; it doubles."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log line shown."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="Form of the log lines."
    )

    @model_validator(mode="after")
    def _check_order(self) -> Settings:
        if not self.retry_seconds < self.renew_seconds < self.lease_seconds:
            raise ValueError(
                "RETRY_SECONDS must be below RENEW_SECONDS, and that below LEASE_SECONDS"
            )
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings; raises pydantic's ValidationError naming the variable that is wrong."""
        source = os.environ if environment is None else environment
        given = {
            name: source[name.upper()]
            for name in cls.model_fields
            if source.get(name.upper(), "") != ""
        }
        given.setdefault("pod_name", f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")
        if "pod_namespace" not in given and NAMESPACE_FILE.exists():
            given["pod_namespace"] = NAMESPACE_FILE.read_text().strip()
        if "log_level" in given:
            given["log_level"] = given["log_level"].upper()
        return cls.model_validate(given)

    @property
    def subject(self) -> str:
        """The operator's user name, as the API server and the tokens spell it."""
        return f"system:serviceaccount:{self.pod_namespace}:{self.service_account}"
