"""What can be set about the pods of the API and of the workers: typed settings, and no raw pod template."""

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

# Environment variables that the chart itself sets in a container: an entry of extraEnv with such a name would be a
# duplicate, and a wrong POD_UID would make the rescue of tasks impossible.
RESERVED_ENV = (
    "ADMIN_PASSWORD_FILE", "ADMIN_USERNAME", "AUTH_MODE", "CONTAINER_NAME", "DATABASE_URL_FILE", "DRAIN_SECONDS",
    "HOST", "MANAGEMENT_HOST", "MANAGEMENT_PORT", "NODE_NAME", "POD_NAME", "POD_NAMESPACE", "POD_UID", "PORT",
    "REDIS_URL_FILE", "RUNTIME_DIR", "SECRET_KEY_FILE", "SHUTDOWN_SECONDS", "TERMINATION_LOG", "TRUSTED_ISSUERS_FILE",
    "VERSION", "WORKER_CONCURRENCY", "WORKER_QUEUES",
)  # fmt: skip


class Resources(SpecModel):
    """CPU and memory of a container."""

    requests: dict[str, Quantity] = Field(
        default={}, description="Amounts that the scheduler sets aside, such as cpu: 100m."
    )
    limits: dict[str, Quantity] = Field(
        default={}, description="Amounts that may not be exceeded, such as memory: 512Mi."
    )


class KeyRef(SpecModel):
    """A key of a Secret or ConfigMap in the same namespace."""

    name: ResourceName = Field(description="Name of the Secret or ConfigMap.")
    key: DataKey = Field(description="Key in it.")
    optional: bool | None = Field(default=None, description="Whether pods start without it.")


class EnvSource(SpecModel):
    """Where the value of an environment variable comes from."""

    secret_key_ref: KeyRef | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(default=None, description="A key of a ConfigMap.")

    rules = (
        Rule("has(self.secretKeyRef) != has(self.configMapKeyRef)",
             "valueFrom must have exactly one of secretKeyRef and configMapKeyRef"),
    )  # fmt: skip


class EnvVar(SpecModel):
    """An environment variable of the container."""

    name: str = Field(
        min_length=1, max_length=253, pattern=ENV_NAME, description="Name of the variable."
    )
    value: str | None = Field(default=None, max_length=32768, description="Its value.")
    value_from: EnvSource | None = Field(default=None, description="Where its value comes from.")

    rules = (
        Rule("has(self.value) != has(self.valueFrom)", "extraEnv: exactly one of value and valueFrom must be set"),
        Rule(f"!(self.name in {list(RESERVED_ENV)})", "extraEnv: name is reserved: the chart sets this variable",
             ".name"),
    )  # fmt: skip


class PodDisruptionBudget(SpecModel):
    """How many pods an eviction (a node drain) leaves running."""

    enabled: bool = Field(default=True, description="Whether there is a PodDisruptionBudget.")
    min_available: IntOrPercent | None = Field(
        default=None,
        description="Pods that must stay available: a number or a percentage.",
        examples=[1],
    )
    max_unavailable: IntOrPercent | None = Field(
        default=None,
        description="Pods that may be unavailable: a number or a percentage; 1 when minAvailable is not set either.",
        examples=[1],
    )

    rules = (
        Rule("!has(self.minAvailable) || !has(self.maxUnavailable)",
             "podDisruptionBudget: minAvailable and maxUnavailable exclude each other"),
    )  # fmt: skip


class Autoscaling(SpecModel):
    """A HorizontalPodAutoscaler on CPU."""

    enabled: bool = Field(
        default=False,
        description="Whether a HorizontalPodAutoscaler sets the number of pods; replicas is then ignored.",
    )
    min_replicas: int | None = Field(
        default=None, ge=1, le=1000, description="Fewest pods; 1 when unset.", examples=[1]
    )
    max_replicas: int | None = Field(
        default=None, ge=1, le=1000, description="Most pods; required when enabled.", examples=[10]
    )
    target_cpu_utilization_percentage: int = Field(
        default=75,
        ge=1,
        le=1000,
        alias="targetCPUUtilizationPercentage",
        description="Average CPU use, in percent of the request, that the autoscaler aims at.",
    )

    rules = (
        Rule("!has(self.maxReplicas) || (has(self.minReplicas) ? self.minReplicas : 1) <= self.maxReplicas",
             "autoscaling: minReplicas must not be greater than maxReplicas", ".minReplicas"),
        Rule("!has(self.enabled) || !self.enabled || has(self.maxReplicas)",
             "autoscaling: maxReplicas is required when enabled", ".maxReplicas"),
    )  # fmt: skip


class Component(SpecModel):
    """Settings of one component: how many pods, and what they are like."""

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Number of pods; 1 when unset, ignored under autoscaling.",
        examples=[2],
    )
    autoscaling: Autoscaling = Field(
        default=Autoscaling(), description="A HorizontalPodAutoscaler on CPU."
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
    affinity: Affinity | None = Field(default=None, description="Rules on nodes and on other pods.")
    topology_spread_constraints: list[TopologySpreadConstraint] = Field(
        default=[],
        max_length=20,
        description="How evenly the pods are spread.",
        json_schema_extra=LIST_ATOMIC,
    )
    priority_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=DNS_LABEL,
        description="PriorityClass of the pods.",
        examples=["high-priority"],
    )
    pod_annotations: Annotations = Field(default={}, description="More annotations of the pods.")
    pod_labels: Labels = Field(
        default={}, description="More labels of the pods; the chart's own labels win."
    )
    extra_env: list[EnvVar] = Field(
        default=[],
        max_length=100,
        description="More environment variables, such as a setting of the service that has no field here.",
        json_schema_extra=list_map("name"),
    )
    termination_grace_period_seconds: int = Field(
        default=60,
        ge=15,
        le=86400,
        description="Seconds that a pod has to finish its work after it was told to stop.",
    )
    pod_disruption_budget: PodDisruptionBudget = Field(
        default=PodDisruptionBudget(), description="What a node drain leaves running."
    )
