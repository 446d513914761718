"""Where pods may run: the parts of a Kubernetes PodSpec that decide it, typed, so that a misspelt field is refused."""

from typing import Literal

from pydantic import Field

from task_operator.spec.base import LIST_ATOMIC, Labels, SpecModel

SelectorOperator = Literal["In", "NotIn", "Exists", "DoesNotExist"]
NodeOperator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
HonorPolicy = Literal["Honor", "Ignore"]


class Toleration(SpecModel):
    """A taint that the pods tolerate."""

    key: str | None = Field(
        default=None, max_length=316, description="Key of the taint; unset matches every key."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="How value is compared; unset is Equal."
    )
    value: str | None = Field(default=None, max_length=63, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; unset matches every effect."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        description="For NoExecute: seconds that the pod stays; unset is for ever.",
    )


class LabelRequirement(SpecModel):
    """A condition on one label."""

    key: str = Field(max_length=316, description="Key of the label.")
    operator: SelectorOperator = Field(description="How the label is compared with values.")
    values: list[str] = Field(
        default=[],
        max_length=100,
        description="Values for In and NotIn.",
        json_schema_extra=LIST_ATOMIC,
    )


class LabelSelector(SpecModel):
    """Which pods are meant."""

    match_labels: Labels = Field(default={}, description="Labels that a pod must have.")
    match_expressions: list[LabelRequirement] = Field(
        default=[],
        max_length=50,
        description="Conditions that a pod's labels must meet.",
        json_schema_extra=LIST_ATOMIC,
    )


class TopologySpreadConstraint(SpecModel):
    """How evenly pods are spread over zones, nodes or other domains."""

    max_skew: int = Field(ge=1, description="By how many pods two domains may differ.")
    topology_key: str = Field(
        max_length=316, description="Node label whose values are the domains."
    )
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="What happens to a pod that would break the rule."
    )
    label_selector: LabelSelector | None = Field(
        default=None,
        description="Pods that are counted; unset means the pods of the same component.",
    )
    match_label_keys: list[str] = Field(
        default=[],
        max_length=20,
        description="Pod labels whose values select the counted pods.",
        json_schema_extra=LIST_ATOMIC,
    )
    min_domains: int | None = Field(
        default=None, ge=1, description="Fewest domains that there should be."
    )
    node_affinity_policy: HonorPolicy | None = Field(
        default=None, description="Whether node affinity limits the domains."
    )
    node_taints_policy: HonorPolicy | None = Field(
        default=None, description="Whether node taints limit the domains."
    )


class NodeRequirement(SpecModel):
    """A condition on one label or field of a node."""

    key: str = Field(max_length=316, description="Label or field of the node.")
    operator: NodeOperator = Field(description="How it is compared with values.")
    values: list[str] = Field(
        default=[],
        max_length=100,
        description="Values to compare with.",
        json_schema_extra=LIST_ATOMIC,
    )


class NodeSelectorTerm(SpecModel):
    """Conditions on a node, all of which must hold."""

    match_expressions: list[NodeRequirement] = Field(
        default=[],
        max_length=50,
        description="Conditions on the node's labels.",
        json_schema_extra=LIST_ATOMIC,
    )
    match_fields: list[NodeRequirement] = Field(
        default=[],
        max_length=50,
        description="Conditions on the node's fields.",
        json_schema_extra=LIST_ATOMIC,
    )


class NodeSelector(SpecModel):
    """Terms of which one must hold."""

    node_selector_terms: list[NodeSelectorTerm] = Field(
        min_length=1,
        max_length=50,
        description="Terms, one of which must hold.",
        json_schema_extra=LIST_ATOMIC,
    )


class PreferredNode(SpecModel):
    """A wish about the node, with its weight."""

    weight: int = Field(ge=1, le=100, description="Weight of the wish, 1 to 100.")
    preference: NodeSelectorTerm = Field(description="Conditions on the node.")


class NodeAffinity(SpecModel):
    """On which nodes pods must or should run."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(
        default=None, description="Nodes on which the pods must run."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredNode] = Field(
        default=[],
        max_length=50,
        description="Nodes on which the pods should run.",
        json_schema_extra=LIST_ATOMIC,
    )


class PodAffinityTerm(SpecModel):
    """Other pods, and the domain in which they count."""

    topology_key: str = Field(
        max_length=316, description="Node label whose values are the domains."
    )
    label_selector: LabelSelector | None = Field(
        default=None, description="The pods that are meant."
    )
    namespaces: list[str] = Field(
        default=[],
        max_length=50,
        description="Namespaces of those pods; unset is the pod's own.",
        json_schema_extra=LIST_ATOMIC,
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of those pods, by label."
    )


class PreferredPods(SpecModel):
    """A wish about other pods, with its weight."""

    weight: int = Field(ge=1, le=100, description="Weight of the wish, 1 to 100.")
    pod_affinity_term: PodAffinityTerm = Field(description="The other pods and the domain.")


class PodAffinity(SpecModel):
    """Near which pods, or away from which, pods must or should run."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] = Field(
        default=[], max_length=50, description="What must hold.", json_schema_extra=LIST_ATOMIC
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] = Field(
        default=[], max_length=50, description="What should hold.", json_schema_extra=LIST_ATOMIC
    )


class Affinity(SpecModel):
    """Rules on nodes and on other pods, as in a Kubernetes PodSpec."""

    node_affinity: NodeAffinity | None = Field(
        default=None, description="On which nodes the pods run."
    )
    pod_affinity: PodAffinity | None = Field(default=None, description="Near which pods they run.")
    pod_anti_affinity: PodAffinity | None = Field(
        default=None, description="Away from which pods they run."
    )
