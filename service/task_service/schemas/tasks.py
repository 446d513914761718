"""What people may say of tasks and conversations: the forms that requests, files and schedules are
checked by.

They refuse fields that they do not know.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.schemas.types import (
    Attempts,
    CatchUp,
    ChangedDescription,
    ChangedTitle,
    Cron,
    Description,
    Json,
    KeptTags,
    Moment,
    Name,
    Person,
    PriorityWord,
    SettingJson,
    StatusWord,
    Tags,
    TimeoutSeconds,
    Title,
    UniqueSeconds,
    Why,
    Zone,
)

ConversationStatus = Literal["pending", "processed"]
ABSENT: Any = Field(default_factory=lambda: None)
"""The default of a field that may be left out, but not be null."""
FIELDS_MAX = 50
NEEDS_MAX = 100
REDRIVE_MAX = 10_000
CREATABLE = {Status.PENDING, Status.IN_PROGRESS, Status.COMPLETED, Status.FAILED, Status.CANCELLED}


class Input(BaseModel):
    """A request's body or parameters."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, given: Any) -> Any:
        """Before an error is made for each field that is not known: a body of megabytes has
        millions.
        """
        if isinstance(given, dict) and len(given) > FIELDS_MAX:
            raise ValueError(f"must have at most {FIELDS_MAX} fields")
        return given


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("may be any JSON but null")
    return value


Body = Annotated[
    Json,
    AfterValidator(_not_null),
    Field(
        description="Any JSON but null, at most 256 KiB.",
        json_schema_extra={"type": ["object", "array", "string", "number", "boolean"]},
    ),
]


class NewConversation(Input):
    """A conversation to add to a task."""

    body: Body = Field(examples=[{"text": "hello"}])


class ConversationChange(Input):
    """Fields to change; those left out stay."""

    body: Body = ABSENT
    status: ConversationStatus = ABSENT


class TaskTemplate(Input):
    """What a schedule makes its tasks of: a new task, but for its time."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"title": "Water the plants", "tags": ["home"]}]}
    )

    title: Title
    description: Description | None = None
    status: StatusWord = Field(
        default=Status.PENDING, description="`scheduled` and `processing` cannot be set."
    )
    priority: PriorityWord = Priority.MEDIUM
    assigned_to: Person | None = None
    due_date: Moment | None = Field(
        default=None, description="In the future. A time without a zone is UTC."
    )
    tags: Tags = Field(default_factory=list)
    handler: Name | None = Field(
        default=None, description="Who runs it; null: a person.", examples=["conversations"]
    )
    payload: Json | None = Field(default=None, description="JSON for the handler, at most 256 KiB.")
    queue: Name = "default"
    max_attempts: Attempts | None = Field(default=None, description="Null: the service's default.")
    timeout_seconds: TimeoutSeconds | None = Field(
        default=None, description="For one attempt; null: the handler's own."
    )
    limit_key: Name | None = Field(
        default=None,
        description="Tasks with the same key share its limits.",
        examples=["customer-7"],
    )
    conversations: list[NewConversation] = Field(default_factory=list, max_length=1000)

    @field_validator("status")
    @classmethod
    def _status_can_be_set(cls, status: Status) -> Status:
        if status not in CREATABLE:
            raise ValueError(
                f"a new task cannot be {status}: give run_at to schedule it; only workers set processing"
            )
        return status


class NewTask(TaskTemplate):
    """A task to create. With a handler a worker runs it; without one it is for a person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"title": "Ring Ada", "priority": "high", "tags": ["phone"]},
                {
                    "title": "Answer",
                    "handler": "conversations",
                    "conversations": [{"body": {"text": "hello"}}],
                },
            ]
        }
    )

    run_at: Moment | None = Field(default=None, description="Not before; null or past: now.")
    unique_key: Name | None = Field(
        default=None,
        description="While a task with this key is open, that one is answered and none is made.",
        examples=["order-7"],
    )
    unique_seconds: UniqueSeconds | None = Field(
        default=None,
        description="The key holds also so long from the task's creation on, whatever became of it.",
    )

    needs: list[UUID] = Field(
        default_factory=list,
        max_length=NEEDS_MAX,
        description="Tasks that must have ended before a worker runs this one. Only with a handler and status pending.",
    )
    when_failed: Literal["cancel", "run"] = Field(
        default="cancel",
        description="What becomes of it when one of `needs` fails, is cancelled or deleted.",
    )

    @field_validator("needs")
    @classmethod
    def _can_wait(cls, needs: list[UUID], info: ValidationInfo) -> list[UUID]:
        if needs and (
            info.data.get("handler", "") is None
            or info.data.get("status", Status.PENDING) is not Status.PENDING
        ):
            raise ValueError("only a pending task with a handler can wait for others")
        return list(dict.fromkeys(needs))

    @field_validator("unique_seconds")
    @classmethod
    def _is_of_a_key(cls, seconds: int | None, info: ValidationInfo) -> int | None:
        if seconds is not None and info.data.get("unique_key", "") is None:
            raise ValueError("needs a unique_key")
        return seconds


class TaskChange(Input):
    """Fields to change (a JSON merge patch): those left out stay, null clears those that may be
    empty.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "completed"}, {"assigned_to": None}]}
    )

    title: ChangedTitle = ABSENT
    description: ChangedDescription | None = None
    status: StatusWord = ABSENT
    priority: PriorityWord = ABSENT
    assigned_to: Person | None = None
    due_date: Moment | None = None
    tags: KeptTags | None = Field(
        default=None,
        description="Replaces all (at most 10, each of at most 50 characters); null: none.",
    )
    handler: Name | None = None
    payload: Json | None = None
    queue: Name = ABSENT
    run_at: Moment | None = None
    max_attempts: Attempts = ABSENT
    timeout_seconds: TimeoutSeconds | None = None
    reason: Why | None = Field(default=None, description="Why, for the history.")

    def columns(self) -> dict[str, Any]:
        """The given fields as columns of `tasks`; status and reason apart."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"status", "reason"}}
        if "priority" in given:
            given["priority"] = self.priority.rank
        if "tags" in given:
            given["tags"] = self.tags or []
        return given


class Because(Input):
    """Why something is done, for the history."""

    reason: Why | None = None


class Redrive(Because):
    """Which failed tasks are to run again; times are of their last attempt's end."""

    handler: Name | None = None
    queue: Name | None = None
    failed_after: Moment | None = None
    failed_before: Moment | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=REDRIVE_MAX)] = Field(
        default=1_000, description="At most so many, the oldest first; call again while `more`."
    )


class SettingValue(Input):
    """An application setting as it shall be."""

    value: SettingJson = Field(
        description="Any JSON, at most 64 KiB.", examples=[{"colour": "green"}]
    )
    description: Description | None = None


class NewLimit(Input):
    """A limit as it shall be: concurrency, or rate with period_seconds, or both."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"concurrency": 5}, {"rate": 100, "period_seconds": 60}]}
    )

    concurrency: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = Field(
        default=None, description="So many run at a time, at least 1 (pause a queue to have none)."
    )
    rate: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = Field(
        default=None, description="So many start in a period, and at most so many at once."
    )
    period_seconds: Annotated[float, Field(strict=True, ge=1, le=86_400)] | None = None


class NewSchedule(Input):
    """A cron expression and the task that it makes each time."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "plants",
                    "cron": "0 8 * * MON-FRI",
                    "template": {"title": "Water the plants"},
                },
            ]
        }
    )

    name: Name
    cron: Cron
    time_zone: Zone = "UTC"
    template: TaskTemplate
    catch_up: CatchUp = Field(
        default="last", description="Of the times that were missed in an outage: how many run."
    )
    enabled: StrictBool = True


class ScheduleChange(Input):
    """Fields to change; those left out stay. The product's own schedules can only be enabled and
    disabled.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": False}]})

    name: Name = ABSENT
    cron: Cron = ABSENT
    time_zone: Zone = ABSENT
    template: TaskTemplate = ABSENT
    catch_up: CatchUp = ABSENT
    enabled: StrictBool = ABSENT
