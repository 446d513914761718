"""Pod settings of the API and the workers: typed fields instead of a raw pod template."""

from pydantic import Field

from task_operator.spec.base import (
    DNS_LABEL,
    ENV_NAME,
    LIST_ATOMIC,
    Annotations,
    DataKey,
    IntOrPercent,
    Labels,
    Quantity,
    ResourceName,
    Rule,
    SpecModel,
    list_map,
)
from task_operator.spec.scheduling import Affinity, Toleration, TopologySpreadConstraint

# Environment variables that the chart sets. An entry of extraEnv with the same name would be a
# duplicate, and with a wrong POD_UID the operator could not rescue tasks.
RESERVED_ENV = (
    "ADMIN_PASSWORD_FILE", "ADMIN_USERNAME", "AUTH_MODE", "CONTAINER_NAME", "DATABASE_URL_FILE",
    "DRAIN_SECONDS", "HOST", "MANAGEMENT_HOST", "MANAGEMENT_PORT", "NODE_NAME", "POD_NAME",
    "POD_NAMESPACE", "POD_UID", "PORT", "REDIS_URL_FILE", "RUNTIME_DIR", "SECRET_KEY_FILE",
    "SHUTDOWN_SECONDS", "TERMINATION_LOG", "TRUSTED_ISSUERS_FILE", "VERSION", "WORKER_CONCURRENCY",
    "WORKER_QUEUES",
)  # fmt: skip


class Resources(SpecModel):
    """CPU and memory of a container."""

    requests: dict[str, Quantity] = Field(
        default={}, description="Amounts that the scheduler reserves, such as cpu: 100m."
    )
    limits: dict[str, Quantity] = Field(
        default={}, description="Maximum amounts, such as memory: 512Mi."
    )


class KeyRef(SpecModel):
    """A key of a Secret or ConfigMap in the same namespace."""

    name: ResourceName = Field(description="Name of the Secret or ConfigMap.")
    key: DataKey = Field(description="Key in the Secret or ConfigMap.")
    optional: bool | None = Field(
        default=None, description="Start the pods even if it does not exist."
    )


class EnvSource(SpecModel):
    """Source of the value of an environment variable."""

    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap.")

    rules = (
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "valueFrom must have exactly one of secretKeyRef and configMapKeyRef",
        ),
    )


class EnvVar(SpecModel):
    """An environment variable of the container."""

    name: str = Field(
        min_length=1, max_length=253, pattern=ENV_NAME, description="Name of the variable."
    )
    value: str | None = Field(default=None, max_length=32768, description="Value of the variable.")
    value_from: EnvSource | None = Field(default=None, description="Source of the value.")

    rules = (
        Rule(
            "has(self.value) != has(self.valueFrom)",
            "extraEnv: exactly one of value and valueFrom must be set",
        ),
        Rule(
            f"!(self.name in {list(RESERVED_ENV)})",
            "extraEnv: name is reserved: the chart sets this variable",
            ".name",
        ),
    )


class PodDisruptionBudget(SpecModel):
    """A PodDisruptionBudget, which limits evictions, as in a node drain."""

    enabled: bool = Field(default=True, description="Create a PodDisruptionBudget.")
    min_available: IntOrPercent | None = Field(
        default=None,
        description="Pods that must stay available: a number or a percentage.",
        examples=[1],
    )
    max_unavailable: IntOrPercent | None = Field(
        default=None,
        description="Pods that may be unavailable: a number or a percentage. 1 if neither "
        "minAvailable nor maxUnavailable is set.",
        examples=[1],
    )

    rules = (
        Rule(
            "!has(self.minAvailable) || !has(self.maxUnavailable)",
            "podDisruptionBudget: minAvailable and maxUnavailable exclude each other",
        ),
    )


class Autoscaling(SpecModel):
    """A HorizontalPodAutoscaler that scales on CPU usage."""

    enabled: bool = Field(
        default=False,
        description="Create a HorizontalPodAutoscaler. It sets the number of pods, and replicas is "
        "ignored.",
    )
    min_replicas: int | None = Field(
        default=None, ge=1, le=1000, description="Minimum number of pods. Unset: 1.", examples=[1]
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Maximum number of pods. Required when enabled.",
        examples=[10],
    )
    target_cpu_utilization_percentage: int = Field(
        default=75,
        ge=1,
        le=1000,
        alias="targetCPUUtilizationPercentage",
        description="Target average CPU usage, in percent of the request.",
    )

    rules = (
        Rule(
            "!has(self.maxReplicas) "
            "|| (has(self.minReplicas) ? self.minReplicas : 1) <= self.maxReplicas",
            "autoscaling: minReplicas must not be greater than maxReplicas",
            ".minReplicas",
        ),
        Rule(
            "!has(self.enabled) || !self.enabled || has(self.maxReplicas)",
            "autoscaling: maxReplicas is required when enabled",
            ".maxReplicas",
        ),
    )


class Component(SpecModel):
    """Settings of one component: the number of pods, and their properties."""

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of pods. Unset: 1. Ignored while autoscaling is enabled.",
        examples=[2],
    )
    autoscaling: Autoscaling = Field(
        default=Autoscaling(), description="A HorizontalPodAutoscaler that scales on CPU usage."
    )
    resources: Resources = Field(
        default=Resources(requests={"cpu": "50m", "memory": "128Mi"}, limits={"memory": "512Mi"}),
        description="CPU and memory of the container.",
    )
    node_selector: Labels = Field(default={}, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field(
        default=[],
        max_length=50,
        description="Taints that the pods tolerate.",
        json_schema_extra=LIST_ATOMIC,
    )
    affinity: Affinity | None = Field(
        default=None, description="Affinity to nodes and to other pods."
    )
    topology_spread_constraints: list[TopologySpreadConstraint] = Field(
        default=[],
        max_length=20,
        description="Spreading of the pods over zones, nodes or other domains.",
        json_schema_extra=LIST_ATOMIC,
    )
    priority_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=DNS_LABEL,
        description="PriorityClass of the pods.",
        examples=["high-priority"],
    )
    pod_annotations: Annotations = Field(
        default={}, description="Additional annotations of the pods."
    )
    pod_labels: Labels = Field(
        default={}, description="Additional labels of the pods. The chart's labels take precedence."
    )
    extra_env: list[EnvVar] = Field(
        default=[],
        max_length=100,
        description="Additional environment variables, such as settings of the service that have "
        "no field in this spec.",
        json_schema_extra=list_map("name"),
    )
    termination_grace_period_seconds: int = Field(
        default=60,
        ge=15,
        le=86400,
        description="Seconds that a pod has to finish its work before the kubelet kills it.",
    )
    pod_disruption_budget: PodDisruptionBudget = Field(
        default=PodDisruptionBudget(), description="Limit on evictions, as in a node drain."
    )
