"""Every setting, read once from the environment (and a `.env` file): the only reader of either.

`task-service settings` prints them all with their meaning; `.env.example` is that output.
"""

import re
import socket
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from task_service.domain.cron import check_cron, parse_zone
from task_service.domain.fields import ATTEMPTS_MAX, NAME_PATTERN

Seconds = Annotated[float, Field(gt=0)]
RATE_PATTERN = (
    r"(?P<amount>[1-9]\d{0,8}) ?/ ?(?:(?P<multiple>[1-9]\d{0,3}) )?"
    r"(?P<unit>second|minute|hour|day)s?"
)
ORIGIN_PATTERN = r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?"


class Settings(BaseSettings):
    """The service's settings; names are environment variables in lower case."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    app_name: str = Field(
        "task-service", description="Name shown in the API's documentation and in logs."
    )
    version: str = Field(
        "0.1.0", description="Version shown by the API, /status and the workers' rows."
    )
    environment: Literal["development", "staging", "production"] = Field(
        "development", description="Where this runs."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe line logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or lines for people."
    )

    database_url: str | None = Field(
        None, description="postgresql://user:password@host:port/name; wins over the parts below."
    )
    database_url_file: Path | None = Field(
        None,
        description="File that holds DATABASE_URL; read again when it changes or a login fails. Wins over DATABASE_URL.",
    )
    db_host: str | None = Field(
        None, description="Database host, when there is no DATABASE_URL. Wins over POSTGRES_HOST."
    )
    db_port: int | None = Field(None, description="Database port. Wins over POSTGRES_PORT.")
    db_name: str | None = Field(None, description="Database name. Wins over POSTGRES_DB.")
    db_user: str | None = Field(None, description="Database role. Wins over POSTGRES_USER.")
    db_password: str | None = Field(
        None, description="The role's password. Wins over POSTGRES_PASSWORD.", repr=False
    )
    postgres_host: str = Field("localhost", description="Database host.")
    postgres_port: int = Field(5432, description="Database port.")
    postgres_db: str = Field("tasks_db", description="Database name.")
    postgres_user: str = Field("postgres", description="Database role.")
    postgres_password: str | None = Field(None, description="The role's password.", repr=False)
    database_pooler: bool = Field(
        False,
        description="The database is reached through a transaction pooler: no session settings, no LISTEN, no prepared statements kept.",
    )
    database_wait_seconds: Annotated[float, Field(ge=0)] = Field(
        60, description="`migrate` waits so long for a database that does not answer yet."
    )
    db_pool_size: int = Field(
        20, ge=1, description="Connections that the API keeps open at most when idle."
    )
    db_max_overflow: int = Field(
        10, ge=0, description="Connections that the API opens beyond the pool under load."
    )
    db_pool_recycle_seconds: int = Field(
        3600, ge=1, description="Age after which a pooled connection is replaced."
    )
    db_pool_timeout_seconds: Seconds = Field(
        5, description="Wait for a free connection before a request answers 503."
    )
    db_statement_timeout_seconds: Seconds = Field(
        15, description="Longest statement of an API request."
    )

    host: str = Field("0.0.0.0", description="Address of the public API.")  # noqa: S104 - a container's only interface
    port: int = Field(8000, ge=0, le=65535, description="Port of the public API.")
    management_host: str = Field(
        "0.0.0.0",  # noqa: S104
        description="Address of probes, metrics and internal routes.",
    )
    management_port: int = Field(
        8081,
        ge=0,
        le=65535,
        description="Port of probes, metrics and internal routes; never exposed to users.",
    )
    root_compatibility: Literal["c", "d", "e"] = Field(
        "c", description="Which service's paths /tasks at the root speaks."
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, description="Largest request body; larger ones answer 413."
    )
    max_batch_bytes: int = Field(
        16_777_216, ge=1024, description="Largest body of tasks:batch; larger ones answer 413."
    )
    max_upload_bytes: int = Field(
        104_857_600, ge=1024, description="Largest file to import; larger ones answer 413."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose pages may call the API from a browser, separated by commas; *: all.",
    )
    debug: bool = Field(
        False, description="Answer faults with the error's text; refused in production."
    )

    auth_mode: Literal["required", "open"] = Field(
        "required",
        description="open: who calls without a token may do everything (for development).",
    )
    secret_key: str | None = Field(
        None,
        description="Signs the tokens; at least 32 characters, the same for all instances.",
        repr=False,
    )
    secret_key_file: Path | None = Field(
        None,
        description="File that holds SECRET_KEY; read again when it changes. Wins over SECRET_KEY.",
    )
    algorithm: Literal["HS256", "HS384", "HS512"] = Field(
        "HS256", description="How tokens are signed."
    )
    access_token_expire_minutes: int = Field(
        30, ge=1, le=1440, description="How long an access token is good."
    )
    refresh_token_expire_days: int = Field(
        14, ge=1, le=365, description="How long a refresh token is good."
    )
    admin_username: str | None = Field(
        None,
        description="With ADMIN_PASSWORD: the administrator who is made at a start, while there is none.",
    )
    admin_password: str | None = Field(
        None, description="That administrator's first password.", repr=False
    )
    admin_password_file: Path | None = Field(
        None, description="File that holds ADMIN_PASSWORD. Wins over it."
    )
    trusted_issuers_file: Path | None = Field(
        None,
        description="JSON file of token issuers that are trusted beside our own; none: /internal is closed.",
    )
    rate_limit_read: str | None = Field(
        None, description="GET requests per user or address, such as 600/minute; none: no limit."
    )
    rate_limit_write: str | None = Field(
        None, description="Other requests, such as 300/minute; none: no limit."
    )
    rate_limit_login: str | None = Field(
        "20/minute", description="Log-ins and refreshes per address; none: no limit."
    )
    rate_limit_upload: str | None = Field(
        "30/minute", description="Imports per user or address; none: no limit."
    )
    cache_ttl_seconds: int = Field(
        600, ge=1, description="How long a task may stay in the Redis cache."
    )
    idempotency_hours: int = Field(
        24, ge=1, le=720, description="How long an Idempotency-Key is remembered."
    )
    event_poll_seconds: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="How often new events are looked for while somebody listens."
    )
    event_streams_max: int = Field(
        500,
        ge=1,
        le=100_000,
        description="Streams of events that one process serves at once; further ones answer 503.",
    )

    daily_log_cron: str = Field("5 0 * * *", description="When the daily loader runs (cron).")
    daily_log_time_zone: str = Field(
        "UTC", description="Time zone of the daily loader and of its dates."
    )
    schedule_poll_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        1, description="How often a process looks for schedules that are due."
    )

    otel_enabled: bool = Field(False, description="Record traces (OpenTelemetry).")
    otel_exporter: Literal["otlp", "console"] = Field("otlp", description="Where traces go.")
    otel_exporter_endpoint: str = Field(
        "http://localhost:4318", description="OTLP/HTTP endpoint of a collector, without a path."
    )
    otel_service_name: str | None = Field(
        None, description="Name of the service in traces; none: APP_NAME."
    )
    otel_sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1, description="Share of new traces recorded."
    )

    webhook_secret: str | None = Field(
        None, description="Signs the calls of the handler `webhook` (HMAC-SHA256).", repr=False
    )
    webhook_secret_file: Path | None = Field(
        None, description="File that holds WEBHOOK_SECRET. Wins over it."
    )
    webhook_allow_private: bool = Field(
        False, description="Let the handler `webhook` call private and local addresses."
    )
    webhook_timeout_seconds: Seconds = Field(30, description="Longest wait for a webhook's answer.")

    worker_queues: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default",), description="Queues that a worker serves, separated by commas."
    )
    worker_concurrency: int = Field(
        20, ge=1, le=1000, description="Tasks that one worker process runs at once."
    )
    heartbeat_seconds: Seconds = Field(
        3, description="Time between a worker's heartbeats; less than a third of the lease."
    )
    lease_seconds: Seconds = Field(
        15, description="A worker without a heartbeat for so long is dead; its tasks go to others."
    )
    poll_seconds: Annotated[float, Field(gt=0, le=1)] = Field(
        1, description="Longest wait before the queue is looked at without a notification."
    )
    shutdown_seconds: Seconds = Field(
        30,
        description="After SIGTERM, handlers may finish for so long; then their tasks are given back.",
    )
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        0,
        description="After SIGTERM, the API goes on answering for so long, closing each connection with its answer; then it stops listening.",
    )
    default_handler: str = Field(
        "conversations",
        description="Handler of tasks that come by service C's paths; empty: they are for people.",
    )
    default_max_attempts: int = Field(
        5, ge=1, le=ATTEMPTS_MAX, description="Attempts of a task that names no number."
    )
    default_timeout_seconds: int = Field(
        3600, ge=1, description="Time limit of a task that names none and whose handler has none."
    )
    keep_done_days: Annotated[float, Field(ge=0)] = Field(
        0,
        description="Tasks that workers completed, or that were cancelled, are forgotten so many days later; 0: never.",
    )
    keep_failed_days: Annotated[float, Field(ge=0)] = Field(
        0, description="Tasks that failed at workers are forgotten so many days later; 0: never."
    )
    retry_base_seconds: Seconds = Field(
        1, description="Wait before the second attempt; doubles with each further one."
    )
    retry_cap_seconds: Seconds = Field(300, description="Longest wait between two attempts.")
    conversations_min_seconds: Annotated[float, Field(ge=0)] = Field(
        6, description="Shortest simulated work of the handler `conversations`."
    )
    conversations_max_seconds: Annotated[float, Field(ge=0)] = Field(
        7, description="Longest simulated work of the handler `conversations`."
    )

    runtime_dir: Path = Field(
        Path("/tmp/task-service"),  # noqa: S108
        description="Folder of lock files; one per container or host.",
    )
    termination_log: Path = Field(
        Path("/dev/termination-log"), description="File that tells Kubernetes why `migrate` failed."
    )
    pod_name: str | None = Field(None, description="This pod's name (downward API).")
    pod_uid: str | None = Field(None, description="This pod's UID (downward API).")
    pod_namespace: str | None = Field(None, description="This pod's namespace (downward API).")
    node_name: str | None = Field(None, description="This pod's node (downward API).")
    container_name: str | None = Field(None, description="This container's name in its pod.")

    redis_url: str | None = Field(
        None,
        description="redis://host:port/0 of Redis or Valkey; wins over REDIS_HOST and REDIS_PORT.",
    )
    redis_url_file: Path | None = Field(None, description="File that holds REDIS_URL.")
    redis_host: str | None = Field(None, description="Redis or Valkey host; none: no cache.")
    redis_port: int = Field(6379, description="Redis or Valkey port.")
    redis_timeout_seconds: Seconds = Field(
        0.25, le=1, description="Longest wait for an answer of Redis, up to 1 s; then it is away."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object, info: ValidationInfo) -> object:
        """`NAME=` means the default, but for the one setting in which empty says something."""
        if value == "" and info.field_name and info.field_name != "default_handler":
            return cls.model_fields[info.field_name].get_default()
        return value

    @field_validator("worker_queues", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(p for p in (part.strip() for part in value.split(",")) if p)
            if isinstance(value, str)
            else value
        )

    @field_validator("worker_queues")
    @classmethod
    def _check_queues(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bad = [q for q in value if not re.match(NAME_PATTERN, q)]
        if bad or not value:
            raise ValueError(
                f"must be names separated by commas, such as default,mail; not {bad or 'empty'}"
            )
        return tuple(dict.fromkeys(value))

    @field_validator("daily_log_cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        return check_cron(value)

    @field_validator("daily_log_time_zone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        return parse_zone(value).key

    @field_validator("rate_limit_read", "rate_limit_write", "rate_limit_login", "rate_limit_upload")
    @classmethod
    def _check_rate(cls, value: str | None) -> str | None:
        """The word `none` takes a default limit away, which an empty variable does not."""
        if value is None or value.strip().lower() == "none":
            return None
        if not re.fullmatch(RATE_PATTERN, value.strip()):
            raise ValueError(
                "must be like 600/minute or 5000/2 hours (second, minute, hour, day), or none"
            )
        return value.strip()

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ip_network(part, strict=False)) for part in value)
        except ValueError:
            raise ValueError(
                "must be addresses or networks separated by commas, such as 10.0.0.0/8"
            ) from None

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(
            part.strip(" []\"'").rstrip("/") for part in value
        )  # also a JSON list, as service E had it
        bad = [part for part in origins if part != "*" and not re.fullmatch(ORIGIN_PATTERN, part)]
        if bad:
            raise ValueError(
                f"must be origins separated by commas, such as https://app.example.com; not {bad[0]}"
            )
        return origins

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError("HEARTBEAT_SECONDS must be at most a third of LEASE_SECONDS")
        if self.conversations_min_seconds > self.conversations_max_seconds:
            raise ValueError("CONVERSATIONS_MIN_SECONDS must not be over CONVERSATIONS_MAX_SECONDS")
        if self.port and self.port == self.management_port:
            raise ValueError("PORT and MANAGEMENT_PORT must differ")
        return self

    @cached_property
    def host_name(self) -> str:
        """What tells this machine or pod from others: the pod's UID in Kubernetes, else the host's
        name.
        """
        return self.pod_uid or socket.gethostname()

    def read_database_url(self) -> str:
        """The database's URL with the plain `postgresql` scheme, read from its file when there is
        one.

        DATABASE_URL_FILE wins over DATABASE_URL, which wins over DB_*, which wins over POSTGRES_*.
        """
        if self.database_url_file:
            url = self.database_url_file.read_text().strip()
        else:
            url = self.database_url or self._database_url_of_parts()
        scheme, _, rest = url.partition("://")
        if scheme.split("+")[0] not in ("postgresql", "postgres") or not rest:
            raise ValueError(
                "DATABASE_URL must look like postgresql://user:password@host:5432/name"
            )
        return f"postgresql://{rest}"

    def read_redis_url(self) -> str | None:
        """The URL of Redis, read from its file when there is one; None when none is configured."""
        if self.redis_url_file:
            return self.redis_url_file.read_text().strip() or None
        if self.redis_url:
            return self.redis_url
        return f"redis://{self.redis_host}:{self.redis_port}/0" if self.redis_host else None

    def read_webhook_secret(self) -> str | None:
        """What webhooks are signed with, read from its file when there is one; None: they are not
        signed.
        """
        if self.webhook_secret_file:
            return self.webhook_secret_file.read_text().strip() or None
        return self.webhook_secret

    def _database_url_of_parts(self) -> str:
        user = quote(self.db_user or self.postgres_user, safe="")
        password = self.db_password or self.postgres_password
        login = f"{user}:{quote(password, safe='')}" if password else user
        host, port = self.db_host or self.postgres_host, self.db_port or self.postgres_port
        return (
            f"postgresql://{login}@{host}:{port}/{quote(self.db_name or self.postgres_db, safe='')}"
        )

    def contradictions(self) -> list[str]:
        """Say which settings are given twice with different values (the stronger one is used).

        >>> Settings(_env_file=None, db_host="a", postgres_host="b").contradictions()
        ['DB_HOST wins over POSTGRES_HOST']
        """
        found = []
        if self.database_url and self.database_url_file:
            found.append("DATABASE_URL_FILE wins over DATABASE_URL")
        used = self._parts_of_url()
        for part, old in (
            ("host", "host"),
            ("port", "port"),
            ("name", "db"),
            ("user", "user"),
            ("password", "password"),
        ):
            strong, weak = f"db_{part}", f"postgres_{old}"
            given = [
                n
                for n in (strong, weak)
                if n in self.model_fields_set and getattr(self, n) is not None
            ]
            if used is not None:
                found += [
                    f"DATABASE_URL wins over {n.upper()}"
                    for n in given
                    if getattr(self, n) != used[part]
                ]
            elif len(given) == 2 and getattr(self, strong) != getattr(self, weak):
                found.append(f"{strong.upper()} wins over {weak.upper()}")
        return found

    def _parts_of_url(self) -> dict[str, Any] | None:
        """What DATABASE_URL or its file says of each part, None for what it leaves out; None when
        neither is given.
        """
        if not (self.database_url or self.database_url_file):
            return None
        try:
            url = urlsplit(self.read_database_url())
            port = url.port
        except (OSError, ValueError):  # said elsewhere
            return None
        texts = {
            "host": url.hostname,
            "name": url.path.lstrip("/"),
            "user": url.username,
            "password": url.password,
        }
        return {part: unquote(text) if text else None for part, text in texts.items()} | {
            "port": port or 5432
        }


def load_settings(**given: object) -> Settings:
    """Read the settings; values given here (a command line's options) win over the environment."""
    return Settings(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
