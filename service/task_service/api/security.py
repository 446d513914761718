"""Installation of authentication, rate limits and security headers, and their documentation."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from task_service.api.auth.authenticator import Authenticator
from task_service.api.auth.first_admin import FirstAdmin
from task_service.api.auth.signing_keys import SigningKeys
from task_service.api.auth.trusted_issuers import Trust
from task_service.api.http.headers import SecurityHeaders, allow_origins
from task_service.api.http.problems import documented
from task_service.api.http.rate_limits import RateLimiter
from task_service.domain.permissions import GRANTS, Permission
from task_service.services.identity.passwords import Passwords
from task_service.services.identity.tokens import Tokens
from task_service.services.identity.users import Credentials
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store.users import LookUps


class Connections:
    """The connections of authentication and rate limits. A later request opens them again."""

    def __init__(self, look_ups: LookUps, limits: RateLimiter) -> None:
        self._look_ups, self._limits = look_ups, limits

    async def start(self) -> None:
        """Do nothing: the first request connects."""

    async def stop(self) -> None:
        """Close connections."""
        await self._look_ups.close()
        await self._limits.close()


def install_security(app: FastAPI, settings: Settings) -> None:
    """Install the authenticator, limits and headers. Raises NoKeyError without a signing key."""
    transactions: TransactionManager = app.state.transactions
    credentials = Credentials(
        Tokens(settings, SigningKeys(settings), transactions.clock), Passwords()
    )
    look_ups, limits = LookUps(settings), RateLimiter(settings)
    trust = Trust(settings.trusted_issuers_file)
    app.state.authenticator = Authenticator(
        credentials, trust, look_ups, settings.auth_mode == "open"
    )
    app.state.limits = limits
    app.state.connections = Connections(look_ups, limits)
    app.state.first_admin = FirstAdmin(transactions, credentials)
    app.state.background += [app.state.connections, app.state.first_admin]
    if settings.cors_origins:
        app.add_middleware(partial(allow_origins, origins=settings.cors_origins))
    app.add_middleware(SecurityHeaders, https_only=settings.environment == "production")


def document_security(
    schema: dict[str, Any], routers: Iterable[APIRouter], *, is_open: bool
) -> None:
    """Document the role that each operation requires. In open mode the token is optional."""
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    operation = schema["paths"].get(route.path_format, {}).get(method.lower())
                    if operation is not None:
                        _document(operation, route.dependant, is_open=is_open)


def _document(operation: dict[str, Any], dependant: Dependant, *, is_open: bool) -> None:
    if "security" not in operation:
        return
    rules = list(rules_of(dependant))
    roles = {GRANTS[permission].role for permission, _ in rules}
    given, every = operation["responses"], documented()
    for status in (401, 429, *([403] if roles else [])):
        given.setdefault(str(status), every[status])
    if roles:
        role = max(roles, key=list(type(next(iter(roles)))).index)
        operation["description"] = (
            f"{operation.get('description', '')}\n\nRequires the role `{role}`.".strip()
        )
    if is_open and not any(always for _, always in rules):
        operation["security"] = [*operation["security"], {}]


def rules_of(dependant: Dependant) -> Iterator[tuple[Permission, bool]]:
    """Yield the permissions that an endpoint requires, and whether it always requires a token."""
    for inner in dependant.dependencies:
        permission = getattr(inner.call, "permission", None)
        if permission is not None:
            yield permission, getattr(inner.call, "always", False)
        yield from rules_of(inner)
