"""Who makes a request, and what that allows."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from task_service.domain.errors import ForbiddenError
from task_service.domain.permissions import GRANTS, Permission, Role


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `name` is written into the history; a user of ours has an id, a trusted issuer's bearer has none."""

    name: str
    role: Role
    kind: Literal["anonymous", "user", "issuer", "system"]
    user_id: UUID | None = None

    def may(self, permission: Permission) -> bool:
        """Whether the caller's role has the permission."""
        return self.role.includes(GRANTS[permission].role)

    def require(self, permission: Permission) -> None:
        """Raise ForbiddenError, which names the role that is missing, unless the caller has the permission."""
        if not self.may(permission):
            grant = GRANTS[permission]
            raise ForbiddenError(
                f"Your role {self.role} may not do this; it takes the role {grant.role}.",
                role=self.role,
                needs=grant.role,
                permission=permission,
            )

    def require_change(self, created_by: str | None, assigned_to: str | None) -> None:
        """Raise ForbiddenError unless the caller may change a task of these people.

        >>> ada = Principal("ada", Role.EDITOR, "user")
        >>> ada.require_change("ada", None), ada.require_change("bob", "ada")
        (None, None)
        >>> ada.require_change("bob", None)
        Traceback (most recent call last):
        task_service.domain.errors.ForbiddenError: This task is not yours; changing it takes the role operator.
        """
        if self.may(Permission.CHANGE_ANY_TASK):
            return
        self.require(Permission.CHANGE_OWN_TASKS)
        if self.name not in (created_by, assigned_to):
            needs = GRANTS[Permission.CHANGE_ANY_TASK].role
            raise ForbiddenError(
                f"This task is not yours; changing it takes the role {needs}.",
                role=self.role,
                needs=needs,
                permission=Permission.CHANGE_ANY_TASK,
            )


ANONYMOUS = Principal("anonymous", Role.ADMIN, "anonymous")
"""The caller while nobody has to say who they are (AUTH_MODE=open)."""
SYSTEM = Principal("system", Role.ADMIN, "system")
"""The product itself: schedules, imports from the command line."""
