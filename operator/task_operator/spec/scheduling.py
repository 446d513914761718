"""Scheduling fields of a Kubernetes PodSpec, typed so that a misspelled field is rejected."""

from typing import Literal

from pydantic import Field

from task_operator.spec.base import LIST_ATOMIC, Labels, SpecModel

SelectorOperator = Literal["In", "NotIn", "Exists", "DoesNotExist"]
NodeOperator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
HonorPolicy = Literal["Honor", "Ignore"]


class Toleration(SpecModel):
    """A taint that the pods tolerate."""

    key: str | None = Field(
        default=None, max_length=316, description="Key of the taint. Unset: every key."
    )
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Comparison with the value. Unset: Equal."
    )
    value: str | None = Field(default=None, max_length=63, description="Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint. Unset: every effect."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        description="For NoExecute: seconds that the pod stays. Unset: forever.",
    )


class LabelRequirement(SpecModel):
    """A condition on one label."""

    key: str = Field(max_length=316, description="Key of the label.")
    operator: SelectorOperator = Field(description="Comparison of the label with the values.")
    values: list[str] = Field(
        default=[],
        max_length=100,
        description="Values for In and NotIn.",
        json_schema_extra=LIST_ATOMIC,
    )


class LabelSelector(SpecModel):
    """A selection of objects by their labels."""

    match_labels: Labels = Field(default={}, description="Labels that an object must have.")
    match_expressions: list[LabelRequirement] = Field(
        default=[],
        max_length=50,
        description="Conditions that the labels of an object must meet.",
        json_schema_extra=LIST_ATOMIC,
    )


class TopologySpreadConstraint(SpecModel):
    """A constraint on the spreading of pods over zones, nodes or other domains."""

    max_skew: int = Field(
        ge=1, description="Maximum difference in the number of pods between two domains."
    )
    topology_key: str = Field(
        max_length=316, description="Node label whose values are the domains."
    )
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = Field(
        description="Treatment of a pod that would violate the constraint."
    )
    label_selector: LabelSelector | None = Field(
        default=None,
        description="Pods that are counted. Unset: the pods of the same component.",
    )
    match_label_keys: list[str] = Field(
        default=[],
        max_length=20,
        description="Pod labels whose values select the counted pods.",
        json_schema_extra=LIST_ATOMIC,
    )
    min_domains: int | None = Field(
        default=None, ge=1, description="Minimum number of eligible domains."
    )
    node_affinity_policy: HonorPolicy | None = Field(
        default=None, description="Treatment of node affinity when domains are selected."
    )
    node_taints_policy: HonorPolicy | None = Field(
        default=None, description="Treatment of node taints when domains are selected."
    )


class NodeRequirement(SpecModel):
    """A condition on one label or field of a node."""

    key: str = Field(max_length=316, description="Label or field of the node.")
    operator: NodeOperator = Field(description="Comparison with the values.")
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
    """Terms, of which at least one must hold."""

    node_selector_terms: list[NodeSelectorTerm] = Field(
        min_length=1,
        max_length=50,
        description="Terms, of which at least one must hold.",
        json_schema_extra=LIST_ATOMIC,
    )


class PreferredNode(SpecModel):
    """A preference for nodes, with its weight."""

    weight: int = Field(ge=1, le=100, description="Weight of the preference, 1 to 100.")
    preference: NodeSelectorTerm = Field(description="Conditions on the node.")


class NodeAffinity(SpecModel):
    """Nodes on which pods must or should run."""

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
    """Other pods, and the domain in which they are counted."""

    topology_key: str = Field(
        max_length=316, description="Node label whose values are the domains."
    )
    label_selector: LabelSelector | None = Field(
        default=None, description="The other pods, by label."
    )
    namespaces: list[str] = Field(
        default=[],
        max_length=50,
        description="Namespaces of the other pods. Unset: the pod's own namespace.",
        json_schema_extra=LIST_ATOMIC,
    )
    namespace_selector: LabelSelector | None = Field(
        default=None, description="Namespaces of the other pods, by label."
    )


class PreferredPods(SpecModel):
    """A preference about other pods, with its weight."""

    weight: int = Field(ge=1, le=100, description="Weight of the preference, 1 to 100.")
    pod_affinity_term: PodAffinityTerm = Field(description="The other pods and the domain.")


class PodAffinity(SpecModel):
    """Pods near which, or apart from which, a pod must or should run."""

    required_during_scheduling_ignored_during_execution: list[PodAffinityTerm] = Field(
        default=[], max_length=50, description="Required terms.", json_schema_extra=LIST_ATOMIC
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] = Field(
        default=[], max_length=50, description="Preferred terms.", json_schema_extra=LIST_ATOMIC
    )


class Affinity(SpecModel):
    """Affinity to nodes and to other pods, as in a Kubernetes PodSpec."""

    node_affinity: NodeAffinity | None = Field(
        default=None, description="Nodes on which the pods run."
    )
    pod_affinity: PodAffinity | None = Field(
        default=None, description="Pods near which the pods run."
    )
    pod_anti_affinity: PodAffinity | None = Field(
        default=None, description="Pods apart from which the pods run."
    )
