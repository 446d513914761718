"""The custom resource TaskService: spec and status."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from task_operator.spec.auth import SECRET_RULE
from task_operator.spec.base import Rule, SpecModel, list_map
from task_operator.spec.workload import ExistingDatabase, Workload

GROUP, VERSION, KIND, PLURAL = "taskservice.dev", "v1alpha1", "TaskService", "taskservices"

# Names of children append up to 20 characters. The name of a Service starts with a letter and has
# at most 63 characters.
NAME_RULES = (
    Rule("size(self.metadata.name) <= 40", "metadata.name must have at most 40 characters"),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must start with a letter and contain only a-z, 0-9 and -",
    ),
)


class TaskServiceSpec(Workload):
    """The desired task service: API and workers on a PostgreSQL database."""

    database: ExistingDatabase = Field(description="The PostgreSQL database.")
    paused: bool = Field(
        default=False,
        description="Pause the operator: no migration, no rollout, no repair. Tasks of dead pods "
        "are still rescued. The annotation taskservice.dev/paused has the same effect.",
    )

    rules = (*Workload.rules, SECRET_RULE)


class Condition(SpecModel):
    """One aspect of the current state."""

    type: str = Field(
        max_length=316,
        description="Ready, Progressing, Degraded, Migrated, Paused or ScaleIgnored.",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Status of the condition.")
    reason: str = Field(
        min_length=1, max_length=1024, description="Machine-readable reason, in one word."
    )
    message: str = Field(
        max_length=32768, description="Human-readable reason, with the action to take."
    )
    last_transition_time: AwareDatetime = Field(
        description="Time when the status of the condition last changed."
    )
    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that the condition refers to."
    )


class ApiStatus(SpecModel):
    """Pods of the API."""

    replicas: int = Field(default=0, ge=0, description="Number of pods.")
    ready: int = Field(default=0, ge=0, description="Number of ready pods.")


class WorkerStatus(ApiStatus):
    """Pods of the workers."""

    selector: str = Field(
        default="", description="Label selector of the worker pods, for the scale subresource."
    )


class QueueStatus(SpecModel):
    """Figures of the queue, at most 30 seconds old while they change."""

    ready: int = Field(default=0, ge=0, description="Tasks that are waiting for a worker.")
    scheduled: int = Field(default=0, ge=0, description="Tasks with a start time in the future.")
    running: int = Field(default=0, ge=0, description="Tasks that a worker is running.")
    blocked: int = Field(default=0, ge=0, description="Tasks that a limit blocks.")
    oldest_age_seconds: float = Field(
        default=0, ge=0, description="Seconds for which the oldest ready task has been waiting."
    )


class LastRescue(SpecModel):
    """The most recent release of a dead worker's tasks."""

    time: AwareDatetime = Field(description="Time of the release.")
    worker_id: str = Field(description="Id of the worker process.")
    pod: str = Field(description="Name of the worker's pod.")
    reason: str = Field(
        description="Reason of the worker's death: crash, oom, eviction, node, deleted, rollout, "
        "drain or scale_down."
    )
    tasks: int = Field(ge=0, description="Number of released tasks.")


class TaskServiceStatus(SpecModel):
    """The observed state. Only the operator writes it."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that the status refers to."
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=20,
        description="Aspects of the current state.",
        json_schema_extra=list_map("type"),
    )
    version: str | None = Field(default=None, description="Version that is currently serving.")
    image: str | None = Field(default=None, description="Image that is currently serving.")
    schema_revision: int | None = Field(
        default=None, ge=0, description="Revision of the database schema."
    )
    api: ApiStatus | None = Field(default=None, description="Pods of the API.")
    worker: WorkerStatus | None = Field(default=None, description="Pods of the workers.")
    queue: QueueStatus | None = Field(default=None, description="Figures of the queue.")
    last_rescue: LastRescue | None = Field(
        default=None, description="The most recent release of a dead worker's tasks."
    )


def chart_values(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart's values for the spec of a TaskService, without the operator's own fields.

    >>> chart_values({"database": {"secretRef": {"name": "db"}}, "paused": True})
    {'database': {'secretRef': {'name': 'db'}}}
    """
    return {name: value for name, value in spec.items() if name != "paused"}
