"""Settings of the operator; no other module reads the environment."""

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
    """Split a comma-separated list."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


class Settings(BaseModel):
    """Settings of the operator; the environment variable is the field name in upper case."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pod_namespace: str = Field(
        default="task-operator",
        description="Namespace of the operator, of its Lease and of its ServiceAccount.",
    )
    pod_name: str = Field(description="Identity of this replica in the Lease.")
    service_account: str = Field(
        default="task-operator",
        description="ServiceAccount of the operator. Services trust its tokens.",
    )
    lease_name: str = Field(
        default="task-operator", description="Name of the Lease for the leader election."
    )
    lease_seconds: float = Field(
        default=10, gt=0, description="Seconds after which a Lease expires without a renewal."
    )
    renew_seconds: float = Field(
        default=6, gt=0, description="Seconds of failed renewals after which the leader exits."
    )
    retry_seconds: float = Field(
        default=2, gt=0, description="Seconds between two attempts to acquire or renew the Lease."
    )
    watch_namespaces: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(), description="Comma-separated namespaces to watch; empty: the whole cluster."
    )
    helm: str = Field(default="helm", description="Path or name of the helm program.")
    chart: Path = Field(
        default=Path("/app/charts/task-service"), description="Folder of the chart task-service."
    )
    renders_at_once: int = Field(
        default=2, ge=1, description="Maximum number of concurrent helm processes."
    )
    passes_at_once: int = Field(
        default=16,
        ge=1,
        description="Maximum number of TaskServices that are reconciled concurrently.",
    )
    host: str = Field(default="0.0.0.0", description="Listen address of the probes and metrics.")  # noqa: S104
    port: int = Field(
        default=8082,
        ge=0,
        le=65535,
        description="Port of the probes and metrics; 0: a free port.",
    )
    management_port: int = Field(
        default=8081, ge=1, le=65535, description="Management port of the service's pods."
    )
    resync_seconds: float = Field(
        default=300,
        gt=0,
        description="Seconds between two full listings, which find changes that a watch missed.",
    )
    survey_seconds: float = Field(
        default=15,
        gt=0,
        description="Seconds between two checks of the worker instances without a pod event.",
    )
    figures_seconds: float = Field(
        default=30,
        gt=0,
        description="Minimum seconds between two updates of the queue figures in the status.",
    )
    trust_seconds: float = Field(
        default=300, gt=0, description="Seconds between two reads of the cluster's signing keys."
    )
    drain_seconds: float = Field(
        default=5,
        ge=0,
        description="Maximum seconds to wait for drained workers before replicas are reduced.",
    )
    migration_retry_seconds: float = Field(
        default=10,
        gt=0,
        description="Seconds before the first retry of a failed migration; doubles each time.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Minimum severity of log events."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="Format of log events."
    )

    @model_validator(mode="after")
    def _check_order(self) -> Settings:
        if not self.retry_seconds < self.renew_seconds < self.lease_seconds:
            raise ValueError(
                "RETRY_SECONDS must be less than RENEW_SECONDS, "
                "and RENEW_SECONDS less than LEASE_SECONDS"
            )
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the settings; raise pydantic's ValidationError, which names the invalid variable."""
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
        """The operator's user name in the API server and in the claim sub of its tokens."""
        return f"system:serviceaccount:{self.pod_namespace}:{self.service_account}"
