"""The custom resource TaskService: its spec and its status."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from task_operator.spec.auth import SECRET_RULE
from task_operator.spec.base import Rule, SpecModel, list_map
from task_operator.spec.workload import ExistingDatabase, Workload

GROUP, VERSION, KIND, PLURAL = "taskservice.dev", "v1alpha1", "TaskService", "taskservices"

# Names of children append up to 20 characters, and a Service's name starts with a letter and has 63 at most.
NAME_RULES = (
    Rule("size(self.metadata.name) <= 40", "metadata.name must have at most 40 characters"),
    Rule("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
         "metadata.name must start with a letter and have only a-z, 0-9 and -"),
)  # fmt: skip


class TaskServiceSpec(Workload):
    """What is wanted: a task service with its API and its workers on a PostgreSQL database."""

    database: ExistingDatabase = Field(description="The PostgreSQL database.")
    paused: bool = Field(
        default=False,
        description="Whether the operator leaves the objects alone: no migration, no rollout, no repair. Tasks of dead "
        "pods are still rescued. The annotation taskservice.dev/paused does the same.",
    )

    rules = (*Workload.rules, SECRET_RULE)


class Condition(SpecModel):
    """One aspect of the state."""

    type: str = Field(
        max_length=316,
        description="Ready, Progressing, Degraded, Migrated, Paused or ScaleIgnored.",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(min_length=1, max_length=1024, description="Why, as one word for programs.")
    message: str = Field(
        max_length=32768, description="Why, and what to do, as a sentence for people."
    )
    last_transition_time: AwareDatetime = Field(description="When status last changed.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that it speaks of."
    )


class ApiStatus(SpecModel):
    """The API's pods."""

    replicas: int = Field(default=0, ge=0, description="Number of pods.")
    ready: int = Field(default=0, ge=0, description="Number of ready pods.")


class WorkerStatus(ApiStatus):
    """The workers' pods."""

    selector: str = Field(
        default="", description="Label selector of the worker pods, for the scale subresource."
    )


class QueueStatus(SpecModel):
    """The queue's figures, at most 30 seconds old while they change."""

    ready: int = Field(default=0, ge=0, description="Tasks that wait for a worker.")
    scheduled: int = Field(default=0, ge=0, description="Tasks whose time has not come.")
    running: int = Field(default=0, ge=0, description="Tasks that a worker holds.")
    blocked: int = Field(default=0, ge=0, description="Tasks held back by a limit.")
    oldest_age_seconds: float = Field(
        default=0, ge=0, description="Seconds that the oldest ready task has waited."
    )


class LastRescue(SpecModel):
    """The last time that tasks of a dead worker were released."""

    time: AwareDatetime = Field(description="When.")
    worker_id: str = Field(description="Id of the worker process.")
    pod: str = Field(description="Name of its pod.")
    reason: str = Field(
        description="Why it was dead: crash, oom, eviction, node, deleted, rollout, drain, scale_down."
    )
    tasks: int = Field(ge=0, description="Number of tasks that were released.")


class TaskServiceStatus(SpecModel):
    """What is observed. Written by the operator only."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="metadata.generation that the status speaks of."
    )
    conditions: list[Condition] = Field(
        default=[],
        max_length=20,
        description="Aspects of the state.",
        json_schema_extra=list_map("type"),
    )
    version: str | None = Field(default=None, description="Version that is serving.")
    image: str | None = Field(default=None, description="Image that is serving.")
    schema_revision: int | None = Field(
        default=None, ge=0, description="Revision of the database's schema."
    )
    api: ApiStatus | None = Field(default=None, description="The API's pods.")
    worker: WorkerStatus | None = Field(default=None, description="The workers' pods.")
    queue: QueueStatus | None = Field(default=None, description="The queue's figures.")
    last_rescue: LastRescue | None = Field(
        default=None, description="The last release of a dead worker's tasks."
    )


def chart_values(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The chart's values for a TaskService's spec (as read from the API server): all of it but what is the operator's.

    >>> chart_values({"database": {"secretRef": {"name": "db"}}, "paused": True})
    {'database': {'secretRef': {'name': 'db'}}}
    """
    return {name: value for name, value in spec.items() if name != "paused"}
