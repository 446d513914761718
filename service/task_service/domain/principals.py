"""Callers and their permissions."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from task_service.domain.errors import ForbiddenError
from task_service.domain.permissions import GRANTS, Permission, Role


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `name` appears in histories. Only our own users have an id."""

    name: str
    role: Role
    kind: Literal["anonymous", "user", "issuer", "system"]
    user_id: UUID | None = None

    def may(self, permission: Permission) -> bool:
        """Return whether the caller's role has the permission."""
        return self.role.includes(GRANTS[permission].role)

    def require(self, permission: Permission) -> None:
        """Check the permission. Raises ForbiddenError, which names the required role."""
        if not self.may(permission):
            grant = GRANTS[permission]
            raise ForbiddenError(
                f"Your role {self.role} may not do this; it requires the role {grant.role}.",
                role=self.role,
                needs=grant.role,
                permission=permission,
            )

    def require_change(self, created_by: str | None, assigned_to: str | None) -> None:
        """Check that the caller may change a task with this author and assignee.

        >>> ada = Principal("ada", Role.EDITOR, "user")
        >>> ada.require_change("ada", None), ada.require_change("bob", "ada")
        (None, None)
        >>> ada.require_change("bob", None)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        task_service.domain.errors.ForbiddenError: ...changing it requires the role operator.
        """
        if self.may(Permission.CHANGE_ANY_TASK):
            return
        self.require(Permission.CHANGE_OWN_TASKS)
        if self.name not in (created_by, assigned_to):
            needs = GRANTS[Permission.CHANGE_ANY_TASK].role
            raise ForbiddenError(
                f"This task is not yours; changing it requires the role {needs}.",
                role=self.role,
                needs=needs,
                permission=Permission.CHANGE_ANY_TASK,
            )


ANONYMOUS = Principal("anonymous", Role.ADMIN, "anonymous")
"""The caller if authentication is off (AUTH_MODE=open)."""
SYSTEM = Principal("system", Role.ADMIN, "system")
"""The product itself: schedules, imports from the command line."""
