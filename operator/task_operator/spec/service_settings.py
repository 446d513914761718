"""The service's own settings, as far as they have fields here."""

from typing import Annotated, Literal

from pydantic import Field

from task_operator.spec.base import LIST_SET, Rule, SpecModel

RateLimit = Annotated[
    str,
    Field(
        max_length=64,
        pattern=r"^(none|[1-9][0-9]{0,8} ?/ ?([1-9][0-9]{0,3} )?(second|minute|hour|day)s?)$",
    ),
]
Origin = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^(\*|https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?)$",
    ),
]
Proxy = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$")
]


class RateLimits(SpecModel):
    """How many requests may come from one user or address, such as 600/minute."""

    read: RateLimit | None = Field(
        default=None, description="GET requests; unset: no limit.", examples=["600/minute"]
    )
    write: RateLimit | None = Field(
        default=None, description="Other requests; unset: no limit.", examples=["300/minute"]
    )
    login: RateLimit | None = Field(
        default=None,
        description="Log-ins and refreshes of one address; 20/minute when unset; none: no limit.",
        examples=["20/minute"],
    )
    upload: RateLimit | None = Field(
        default=None,
        description="Imports of files; 30/minute when unset; none: no limit.",
        examples=["30/minute"],
    )


class DailyLog(SpecModel):
    """When the daily loader runs."""

    cron: str = Field(
        default="5 0 * * *",
        max_length=100,
        pattern=r"^\S+( +\S+){4}$",
        description="Its schedule, as five cron fields.",
    )
    time_zone: str = Field(
        default="UTC",
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$",
        description="Time zone of the schedule and of the log's dates, such as Europe/Berlin.",
    )


class Otel(SpecModel):
    """Traces (OpenTelemetry)."""

    enabled: bool = Field(default=False, description="Whether traces are recorded and sent.")
    endpoint: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^https?://[^\s]+$",
        description="OTLP/HTTP endpoint of a collector, without a path; required when enabled.",
        examples=["http://otel-collector.observability:4318"],
    )
    sample_ratio: float = Field(
        default=1, ge=0, le=1, description="Share of new traces that is recorded."
    )

    rules = (
        Rule("!has(self.enabled) || !self.enabled || has(self.endpoint)",
             "settings.otel: endpoint is required when enabled", ".endpoint"),
    )  # fmt: skip


class Settings(SpecModel):
    """Settings of the service; others can be given as environment variables by extraEnv."""

    environment: Literal["development", "staging", "production"] = Field(
        default="production", description="What the service is used for."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severity that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="Format of the log lines."
    )
    default_handler: str = Field(
        default="conversations",
        max_length=100,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:-]*)?$",
        description="Handler of tasks that name none; empty: such tasks are for people.",
    )
    conversations_min_seconds: float = Field(
        default=6,
        ge=0,
        le=86400,
        description="Shortest simulated work of the conversations handler, in seconds.",
    )
    conversations_max_seconds: float = Field(
        default=7,
        ge=0,
        le=86400,
        description="Longest simulated work of the conversations handler, in seconds.",
    )
    heartbeat_seconds: int = Field(
        default=3, ge=1, le=300, description="Seconds between two heartbeats of a worker."
    )
    lease_seconds: int = Field(
        default=15,
        ge=3,
        le=3600,
        description="Seconds without a heartbeat after which a worker is taken for dead.",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="How often a task is tried when it does not say."
    )
    max_body_bytes: int = Field(
        default=1048576,
        ge=1024,
        le=1073741824,
        description="Largest request body that the API takes, in bytes.",
    )
    max_upload_bytes: int = Field(
        default=104857600,
        ge=1024,
        le=10737418240,
        description="Largest file to import that the API takes, in bytes.",
    )
    root_compatibility: Literal["c", "d", "e"] = Field(
        default="c", description="Which service's words the paths /tasks at the root speak."
    )
    cors_origins: list[Origin] = Field(
        default=[],
        max_length=50,
        description="Origins whose pages may call the API from a browser, such as https://app.example.com; *: all.",
        json_schema_extra=LIST_SET,
    )
    trusted_proxies: list[Proxy] = Field(
        default=[],
        max_length=50,
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8.",
        json_schema_extra=LIST_SET,
    )
    rate_limits: RateLimits = Field(
        default=RateLimits(), description="How many requests may come from one user or address."
    )
    daily_log: DailyLog = Field(default=DailyLog(), description="When the daily loader runs.")
    otel: Otel = Field(default=Otel(), description="Traces (OpenTelemetry).")

    rules = (
        Rule("(has(self.heartbeatSeconds) ? self.heartbeatSeconds : 3) * 3 <= "
             "(has(self.leaseSeconds) ? self.leaseSeconds : 15)",
             "settings: heartbeatSeconds must be at most a third of leaseSeconds", ".heartbeatSeconds"),
        Rule("(has(self.conversationsMinSeconds) ? self.conversationsMinSeconds : 6.0) <= "
             "(has(self.conversationsMaxSeconds) ? self.conversationsMaxSeconds : 7.0)",
             "settings: conversationsMinSeconds must not be greater than conversationsMaxSeconds",
             ".conversationsMinSeconds"),
    )  # fmt: skip
