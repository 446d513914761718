"""Settings of the service that have a field in the spec."""

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
    """Maximum request rates per user or address, such as 600/minute."""

    read: RateLimit | None = Field(
        default=None, description="GET requests. Unset: no limit.", examples=["600/minute"]
    )
    write: RateLimit | None = Field(
        default=None, description="Other requests. Unset: no limit.", examples=["300/minute"]
    )
    login: RateLimit | None = Field(
        default=None,
        description="Logins and token refreshes per address. Unset: 20/minute. none: no limit.",
        examples=["20/minute"],
    )
    upload: RateLimit | None = Field(
        default=None,
        description="File imports. Unset: 30/minute. none: no limit.",
        examples=["30/minute"],
    )


class DailyLog(SpecModel):
    """Schedule of the daily loader."""

    cron: str = Field(
        default="5 0 * * *",
        max_length=100,
        pattern=r"^\S+( +\S+){4}$",
        description="Schedule as a cron expression with five fields.",
    )
    time_zone: str = Field(
        default="UTC",
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$",
        description="Time zone of the schedule and of the dates in the log, such as Europe/Berlin.",
    )


class Otel(SpecModel):
    """OpenTelemetry traces."""

    enabled: bool = Field(default=False, description="Record traces and send them to the endpoint.")
    endpoint: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^https?://[^\s]+$",
        description="OTLP/HTTP endpoint of a collector, without a path. Required when enabled.",
        examples=["http://otel-collector.observability:4318"],
    )
    sample_ratio: float = Field(
        default=1, ge=0, le=1, description="Fraction of new traces that are recorded."
    )

    rules = (
        Rule(
            "!has(self.enabled) || !self.enabled || has(self.endpoint)",
            "settings.otel: endpoint is required when enabled",
            ".endpoint",
        ),
    )


class Settings(SpecModel):
    """Settings of the service; extraEnv sets those without a field as environment variables."""

    environment: Literal["development", "staging", "production"] = Field(
        default="production", description="Environment in which the service runs."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Minimum severity of log events."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="Format of log events."
    )
    default_handler: str = Field(
        default="conversations",
        max_length=100,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:-]*)?$",
        description="Handler of tasks without a handler. Empty: such tasks are manual tasks.",
    )
    conversations_min_seconds: float = Field(
        default=6,
        ge=0,
        le=86400,
        description="Minimum duration of the simulated work of the conversations handler, in "
        "seconds.",
    )
    conversations_max_seconds: float = Field(
        default=7,
        ge=0,
        le=86400,
        description="Maximum duration of the simulated work of the conversations handler, in "
        "seconds.",
    )
    heartbeat_seconds: int = Field(
        default=3, ge=1, le=300, description="Seconds between two heartbeats of a worker."
    )
    lease_seconds: int = Field(
        default=15,
        ge=3,
        le=3600,
        description="Seconds without a heartbeat after which a worker counts as dead.",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="Maximum attempts of a task that does not set its own."
    )
    max_body_bytes: int = Field(
        default=1048576,
        ge=1024,
        le=1073741824,
        description="Maximum size of a request body, in bytes.",
    )
    max_upload_bytes: int = Field(
        default=104857600,
        ge=1024,
        le=10737418240,
        description="Maximum size of an imported file, in bytes.",
    )
    root_compatibility: Literal["c", "d", "e"] = Field(
        default="c",
        description="Service whose request and response format the root path /tasks uses.",
    )
    cors_origins: list[Origin] = Field(
        default=[],
        max_length=50,
        description="Origins that may call the API from a browser, such as "
        "https://app.example.com. *: all origins.",
        json_schema_extra=LIST_SET,
    )
    trusted_proxies: list[Proxy] = Field(
        default=[],
        max_length=50,
        description="Addresses or networks of the proxies whose X-Forwarded-For header is trusted, "
        "such as 10.0.0.0/8.",
        json_schema_extra=LIST_SET,
    )
    rate_limits: RateLimits = Field(
        default=RateLimits(), description="Maximum request rates per user or address."
    )
    daily_log: DailyLog = Field(default=DailyLog(), description="Schedule of the daily loader.")
    otel: Otel = Field(default=Otel(), description="OpenTelemetry traces.")

    rules = (
        Rule(
            "(has(self.heartbeatSeconds) ? self.heartbeatSeconds : 3) * 3 <= "
            "(has(self.leaseSeconds) ? self.leaseSeconds : 15)",
            "settings: heartbeatSeconds must be at most a third of leaseSeconds",
            ".heartbeatSeconds",
        ),
        Rule(
            "(has(self.conversationsMinSeconds) ? self.conversationsMinSeconds : 6.0) <= "
            "(has(self.conversationsMaxSeconds) ? self.conversationsMaxSeconds : 7.0)",
            "settings: conversationsMinSeconds must not be greater than conversationsMaxSeconds",
            ".conversationsMinSeconds",
        ),
    )
