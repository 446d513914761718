"""Authentication and authorization of routes, as dependencies built from the permission table."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import OAuth2PasswordBearer

from task_service.domain.errors import UnauthorizedError
from task_service.domain.permissions import Permission
from task_service.domain.principals import Principal

TOKEN_PATH = "/api/v1/auth/token"  # noqa: S105 - a path
CALLER = "task_service.caller"
"""The place in a request's scope where the caller is put."""


class Authentication(OAuth2PasswordBearer):
    """The dependency that finds out who calls, and counts the request for their limit.

    It is FastAPI's security scheme itself: OpenAPI documents it, and no second dependency is
    needed.
    """

    def __init__(self) -> None:
        super().__init__(
            TOKEN_PATH, scheme_name="log-in", refreshUrl="/api/v1/auth/refresh", auto_error=False
        )

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override] # the token is no use to a route
        """Return the caller.

        Raises UnauthorizedError for an invalid token, or without one unless AUTH_MODE is open.
        """
        known: Principal | None = request.scope.get(CALLER)
        if known is None:
            known = request.scope[CALLER] = await self._find_out(request)
        return known

    async def _find_out(self, request: Request) -> Principal:
        state = request.app.state
        try:
            caller: Principal = await state.authenticator.principal(
                request.headers.get("authorization")
            )
        except UnauthorizedError:
            await state.limits.count(request)
            raise
        await state.limits.count(request, caller)
        return caller


principal_of = Authentication()
Caller = Annotated[Principal, Depends(principal_of)]


def allow(permission: Permission, *, always: bool = False) -> Callable[..., Awaitable[Principal]]:
    """Return a dependency that yields the caller, or raises ForbiddenError without the permission.

    `always` requires a token even if AUTH_MODE is open.
    """

    async def allowed(caller: Caller) -> Principal:
        if always and caller.kind == "anonymous":
            raise UnauthorizedError(
                "This operation always requires a token: log in, and send Authorization: Bearer."
            )
        caller.require(permission)
        return caller

    allowed.permission, allowed.always = permission, always  # type: ignore[attr-defined] # the docs and a test read it
    return allowed


class AuthorizedRoute(APIRoute):
    """A route that authorizes the caller before it reads the body or validates parameters.

    FastAPI parses the body before it resolves dependencies. Unauthenticated callers could then send
    large bodies and learn details of the validation.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the questions that the route's dependencies ask."""
        handle = super().get_route_handler()
        asked = list(_questions(self.dependant))
        if not asked:
            return handle
        rules = [question for question in asked if question is not principal_of]

        async def ask_first(request: Request) -> Response:
            caller = await principal_of(request)
            for rule in rules:
                await rule(caller)
            return await handle(request)

        return ask_first


def _questions(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """The dependencies of a route, at any depth, that ask who calls and whether they may."""
    for inner in dependant.dependencies:
        if inner.call is not None and (
            inner.call is principal_of or hasattr(inner.call, "permission")
        ):
            yield inner.call
        yield from _questions(inner)


Reader = Annotated[Principal, Depends(allow(Permission.READ))]
Creator = Annotated[Principal, Depends(allow(Permission.CREATE_TASKS))]
Changer = Annotated[Principal, Depends(allow(Permission.CHANGE_OWN_TASKS))]
"""May change at least their own tasks; whether this one is theirs, the service finds out."""
Importer = Annotated[Principal, Depends(allow(Permission.IMPORT_TASKS))]
OperatorRole = Annotated[Principal, Depends(allow(Permission.OPERATE))]
Auditor = Annotated[Principal, Depends(allow(Permission.READ_AUDIT_LOG))]
UserManager = Annotated[Principal, Depends(allow(Permission.MANAGE_USERS))]
SettingsReader = Annotated[Principal, Depends(allow(Permission.READ_SETTINGS))]
SettingsWriter = Annotated[Principal, Depends(allow(Permission.WRITE_SETTINGS))]
MAY_READ = Depends(allow(Permission.READ))
