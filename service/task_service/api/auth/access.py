"""Who calls, and whether they may: dependencies of routes, made from the permission table."""

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

    It is FastAPI's security scheme itself, so that OpenAPI documents it and a request has one dependency less.
    """

    def __init__(self) -> None:
        super().__init__(
            TOKEN_PATH, scheme_name="log-in", refreshUrl="/api/v1/auth/refresh", auto_error=False
        )

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override] # the token is no use to a route
        """The caller. Raises UnauthorizedError for a bad token, and without one unless AUTH_MODE is open."""
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
    """A dependency that gives the caller; ForbiddenError when their role lacks the permission.

    `always` asks for a token also while AUTH_MODE is open.
    """

    async def allowed(caller: Caller) -> Principal:
        if always and caller.kind == "anonymous":
            raise UnauthorizedError(
                "This always takes a token: log in, and send Authorization: Bearer."
            )
        caller.require(permission)
        return caller

    allowed.permission, allowed.always = permission, always  # type: ignore[attr-defined] # the docs and a test read it
    return allowed


class AskFirst(APIRoute):
    """A route that asks who calls, and whether they may, before it reads the body or looks at parameters.

    FastAPI parses the body before any dependency: it would do so for everybody, and tell who is nobody what is wrong
    with their JSON.
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
