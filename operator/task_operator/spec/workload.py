"""The specification of one task service: its image, API, workers, credentials, settings and network."""

from typing import ClassVar, Literal

from pydantic import Field

from task_operator.spec.auth import OPEN_RULE, Auth
from task_operator.spec.base import (
    DNS_SUBDOMAIN,
    HELM_INTEGER,
    LIST_ATOMIC,
    LIST_SET,
    Annotations,
    DataKey,
    Labels,
    ResourceName,
    Rule,
    SpecModel,
    crd_default,
)
from task_operator.spec.pod import Component
from task_operator.spec.service_settings import Settings


class PullSecret(SpecModel):
    """A Secret with credentials of an image registry."""

    name: ResourceName = Field(
        description="Name of a Secret of type kubernetes.io/dockerconfigjson."
    )


class Image(SpecModel):
    """The image that API, workers and migration run."""

    repository: str = Field(
        default="localhost/task-service",
        min_length=1,
        max_length=255,
        pattern=r"^[a-z0-9]([-a-z0-9._:/]*[a-z0-9])?$",
        description="Image name with its registry, without a tag.",
    )
    tag: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        description="Tag of the image; the chart's appVersion when neither tag nor digest is set.",
        examples=["1.0.0"],
        json_schema_extra=HELM_INTEGER,
    )
    digest: str | None = Field(
        default=None,
        pattern=r"^sha256:[a-f0-9]{64}$",
        description="Digest of the image; it decides when set, and the tag is only shown.",
        examples=["sha256:" + "0" * 64],
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull the image."
    )
    pull_secrets: list[PullSecret] = Field(
        default=[],
        max_length=20,
        description="Credentials for pulling it.",
        json_schema_extra=LIST_ATOMIC,
    )


class Service(SpecModel):
    """The Service in front of the API's pods."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Type of the Service."
    )
    port: int = Field(default=80, ge=1, le=65535, description="Port of the Service.")
    annotations: Annotations = Field(default={}, description="Annotations of the Service.")


class Api(Component):
    """The HTTP API."""

    service: Service = Field(default=Service(), description="The Service in front of the API.")


class Worker(Component):
    """The workers: the pool called default."""

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of pods; 1 when unset, ignored under autoscaling. `kubectl scale` changes it.",
        examples=[2],
        json_schema_extra=crd_default(1),
    )
    queues: list[str] = Field(
        default=["default"],
        min_length=1,
        max_length=32,
        description="Queues that the workers serve.",
        json_schema_extra=LIST_SET
        | {
            "items": {
                "type": "string",
                "minLength": 1,
                "maxLength": 100,
                "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$",
            }
        },
    )
    concurrency: int = Field(
        default=20, ge=1, le=1000, description="Tasks that one pod runs at the same time."
    )


class SecretRef(SpecModel):
    """A key of a Secret in the same namespace that holds a connection URL."""

    name: ResourceName = Field(
        description="Name of the Secret.", examples=["task-service-database"]
    )
    key: DataKey = Field(default="url", description="Key whose value is the URL.")


class Database(SpecModel):
    """The PostgreSQL database, where it may also be one that the chart makes."""

    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the URL, postgresql://USER:PASSWORD@HOST:PORT/NAME. Mounted as a file and read again "
        "when it changes. Required unless secret.create or postgresql.enabled.",
        examples=[{"name": "task-service-database", "key": "url"}],
    )


class ExistingDatabase(Database):
    """The PostgreSQL database."""

    secret_ref: SecretRef = Field(
        description="Secret with the URL, postgresql://USER:PASSWORD@HOST:PORT/NAME. Mounted as a file and read again "
        "when it changes."
    )


class Redis(SpecModel):
    """Redis or Valkey, which the service can do without."""

    secret_ref: SecretRef | None = Field(
        default=None, description="Secret with the URL, redis://HOST:PORT/0."
    )


class Migration(SpecModel):
    """The Job that brings the database's schema up to date before new pods start."""

    active_deadline_seconds: int = Field(
        default=1800, ge=10, le=86400, description="Seconds after which a migration has failed."
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="How often a failed migration pod is tried again."
    )


class ServiceAccount(SpecModel):
    """The ServiceAccount of the pods; it has no rights and no token is mounted."""

    annotations: Annotations = Field(
        default={}, description="Annotations, such as a cloud role for reaching the database."
    )


class NetworkPolicy(SpecModel):
    """Who may connect to the pods."""

    enabled: bool = Field(default=False, description="Whether there are NetworkPolicies.")
    prometheus_pod_labels: Labels = Field(
        default={},
        description="Labels of pods in the same namespace that may read the metrics on port 8081; empty: none.",
        examples=[{"app.kubernetes.io/name": "prometheus"}],
    )


class IngressPath(SpecModel):
    """A path of a host."""

    path: str = Field(default="/", max_length=1024, pattern="^/", description="The path.")
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"] = Field(
        default="Prefix", description="How the path is compared."
    )


class IngressHost(SpecModel):
    """A host name and its paths."""

    host: str = Field(
        max_length=253,
        pattern=r"^(\*\.)?" + DNS_SUBDOMAIN[1:],
        description="Host name, such as tasks.example.com.",
    )
    paths: list[IngressPath] = Field(
        default=[],
        max_length=50,
        description="Paths that lead to the API; / when empty.",
        json_schema_extra=LIST_ATOMIC,
    )


class IngressTls(SpecModel):
    """A certificate and the hosts that it is for."""

    secret_name: ResourceName = Field(description="Secret of type kubernetes.io/tls.")
    hosts: list[str] = Field(
        default=[],
        max_length=50,
        description="Hosts of the certificate.",
        json_schema_extra=LIST_ATOMIC,
    )


class Ingress(SpecModel):
    """An Ingress in front of the API."""

    enabled: bool = Field(default=False, description="Whether there is an Ingress.")
    class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=DNS_SUBDOMAIN,
        description="IngressClass.",
        examples=["nginx"],
    )
    annotations: Annotations = Field(default={}, description="Annotations of the Ingress.")
    hosts: list[IngressHost] = Field(
        default=[],
        max_length=50,
        description="Hosts; at least one when enabled.",
        json_schema_extra=LIST_ATOMIC,
    )
    tls: list[IngressTls] = Field(
        default=[], max_length=50, description="Certificates.", json_schema_extra=LIST_ATOMIC
    )

    rules = (
        Rule("!has(self.enabled) || !self.enabled || (has(self.hosts) && size(self.hosts) > 0)",
             "ingress: hosts must name at least one host when enabled", ".hosts"),
    )  # fmt: skip


class Workload(SpecModel):
    """What a TaskService and the chart's values have in common."""

    image: Image = Field(
        default=Image(), description="The image that API, workers and migration run."
    )
    api: Api = Field(default=Api(), description="The HTTP API.")
    worker: Worker = Field(
        default=Worker(), description="The workers.", json_schema_extra=crd_default({})
    )
    database: Database = Field(default=Database(), description="The PostgreSQL database.")
    auth: Auth = Field(default=Auth(), description="Who may call the API.")
    redis: Redis = Field(
        default=Redis(), description="Redis or Valkey, which the service can do without."
    )
    settings: Settings = Field(default=Settings(), description="Settings of the service.")
    migration: Migration = Field(
        default=Migration(), description="The Job that migrates the database's schema."
    )
    service_account: ServiceAccount = Field(
        default=ServiceAccount(), description="The ServiceAccount of the pods."
    )
    network_policy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Who may connect to the pods."
    )
    ingress: Ingress = Field(default=Ingress(), description="An Ingress in front of the API.")

    rules: ClassVar[tuple[Rule, ...]] = (OPEN_RULE,)
