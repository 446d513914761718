"""The spec of one task service: image, API, workers, credentials, settings and network."""

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
    """The image of API, workers and migration."""

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
        description="Tag of the image. The chart's appVersion if neither tag nor digest is set.",
        examples=["1.0.0"],
        json_schema_extra=HELM_INTEGER,
    )
    digest: str | None = Field(
        default=None,
        pattern=r"^sha256:[a-f0-9]{64}$",
        description="Digest of the image. It takes precedence over the tag, which is then only "
        "shown.",
        examples=["sha256:" + "0" * 64],
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of the image."
    )
    pull_secrets: list[PullSecret] = Field(
        default=[],
        max_length=20,
        description="Credentials for pulling the image.",
        json_schema_extra=LIST_ATOMIC,
    )


class Service(SpecModel):
    """The Service of the API."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field(
        default="ClusterIP", description="Type of the Service."
    )
    port: int = Field(default=80, ge=1, le=65535, description="Port of the Service.")
    annotations: Annotations = Field(default={}, description="Annotations of the Service.")


class Api(Component):
    """The HTTP API."""

    service: Service = Field(default=Service(), description="The Service of the API.")


class Worker(Component):
    """The workers: the pool named default."""

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of pods. Unset: 1. Ignored while autoscaling is enabled. `kubectl "
        "scale` changes it.",
        examples=[2],
        json_schema_extra=crd_default(1),
    )
    queues: list[str] = Field(
        default=["default"],
        min_length=1,
        max_length=32,
        description="Queues from which the workers claim tasks.",
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
        default=20,
        ge=1,
        le=1000,
        description="Maximum number of tasks that one pod runs concurrently.",
    )


class SecretRef(SpecModel):
    """A key of a Secret in the same namespace that holds a connection URL."""

    name: ResourceName = Field(
        description="Name of the Secret.", examples=["task-service-database"]
    )
    key: DataKey = Field(default="url", description="Key whose value is the URL.")


class Database(SpecModel):
    """The PostgreSQL database, which may also be one that the chart runs."""

    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with the URL, postgresql://USER:PASSWORD@HOST:PORT/NAME. It is "
        "mounted as a file and read again when it changes. Required unless secret.create or "
        "postgresql.enabled is set.",
        examples=[{"name": "task-service-database", "key": "url"}],
    )


class ExistingDatabase(Database):
    """The PostgreSQL database."""

    secret_ref: SecretRef = Field(
        description="Secret with the URL, postgresql://USER:PASSWORD@HOST:PORT/NAME. It is "
        "mounted as a file and read again when it changes."
    )


class Redis(SpecModel):
    """Redis or Valkey, which is optional."""

    secret_ref: SecretRef | None = Field(
        default=None, description="Secret with the URL, redis://HOST:PORT/0."
    )


class Migration(SpecModel):
    """The Job that migrates the database schema before new pods start."""

    active_deadline_seconds: int = Field(
        default=1800, ge=10, le=86400, description="Seconds after which a running migration fails."
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=100, description="Number of retries of a failed migration pod."
    )


class ServiceAccount(SpecModel):
    """The ServiceAccount of the pods; it has no permissions, and its token is not mounted."""

    annotations: Annotations = Field(
        default={}, description="Annotations, such as a cloud role with access to the database."
    )


class NetworkPolicy(SpecModel):
    """Restrictions on connections to the pods."""

    enabled: bool = Field(default=False, description="Create NetworkPolicies.")
    prometheus_pod_labels: Labels = Field(
        default={},
        description="Labels of the pods in the same namespace that may read the metrics on port "
        "8081. Empty: no pods.",
        examples=[{"app.kubernetes.io/name": "prometheus"}],
    )


class IngressPath(SpecModel):
    """A path of a host."""

    path: str = Field(default="/", max_length=1024, pattern="^/", description="The path.")
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"] = Field(
        default="Prefix", description="Matching of the path."
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
        description="Paths that are routed to the API. Empty: /.",
        json_schema_extra=LIST_ATOMIC,
    )


class IngressTls(SpecModel):
    """A certificate and its hosts."""

    secret_name: ResourceName = Field(description="Secret of type kubernetes.io/tls.")
    hosts: list[str] = Field(
        default=[],
        max_length=50,
        description="Hosts of the certificate.",
        json_schema_extra=LIST_ATOMIC,
    )


class Ingress(SpecModel):
    """An Ingress for the API."""

    enabled: bool = Field(default=False, description="Create an Ingress.")
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
        description="Hosts. At least one is required when enabled.",
        json_schema_extra=LIST_ATOMIC,
    )
    tls: list[IngressTls] = Field(
        default=[], max_length=50, description="Certificates.", json_schema_extra=LIST_ATOMIC
    )

    rules = (
        Rule(
            "!has(self.enabled) || !self.enabled || (has(self.hosts) && size(self.hosts) > 0)",
            "ingress: hosts must name at least one host when enabled",
            ".hosts",
        ),
    )


class Workload(SpecModel):
    """The fields that a TaskService and the chart's values share."""

    image: Image = Field(default=Image(), description="The image of API, workers and migration.")
    api: Api = Field(default=Api(), description="The HTTP API.")
    worker: Worker = Field(
        default=Worker(), description="The workers.", json_schema_extra=crd_default({})
    )
    database: Database = Field(default=Database(), description="The PostgreSQL database.")
    auth: Auth = Field(default=Auth(), description="Authentication of API requests.")
    redis: Redis = Field(default=Redis(), description="Redis or Valkey, which is optional.")
    settings: Settings = Field(default=Settings(), description="Settings of the service.")
    migration: Migration = Field(
        default=Migration(), description="The Job that migrates the database schema."
    )
    service_account: ServiceAccount = Field(
        default=ServiceAccount(), description="The ServiceAccount of the pods."
    )
    network_policy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Restrictions on connections to the pods."
    )
    ingress: Ingress = Field(default=Ingress(), description="An Ingress for the API.")

    rules: ClassVar[tuple[Rule, ...]] = (OPEN_RULE,)
