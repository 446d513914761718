"""Roles and permissions. The checks and the documentation derive from this table."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The role of a caller. Each role includes the previous one."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Return whether this role includes the other.

        >>> Role.OPERATOR.includes(Role.EDITOR), Role.VIEWER.includes(Role.EDITOR)
        (True, False)
        """
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


class Permission(StrEnum):
    """The permission that an operation of the API requires."""

    READ = "read"
    CREATE_TASKS = "create_tasks"
    CHANGE_OWN_TASKS = "change_own_tasks"
    IMPORT_TASKS = "import_tasks"
    CHANGE_ANY_TASK = "change_any_task"
    OPERATE = "operate"
    READ_SETTINGS = "read_settings"
    WRITE_SETTINGS = "write_settings"
    ERASE_TASKS = "erase_tasks"
    READ_AUDIT_LOG = "read_audit_log"
    MANAGE_USERS = "manage_users"


@dataclass(frozen=True, slots=True)
class Grant:
    """The lowest role with a permission, and the operations that it allows."""

    role: Role
    meaning: str


GRANTS: dict[Permission, Grant] = {
    Permission.READ: Grant(
        Role.VIEWER,
        "Read and export tasks and their details, the daily log, queues, workers, schedules.",
    ),
    Permission.CREATE_TASKS: Grant(Role.EDITOR, "Create tasks, one or many."),
    Permission.CHANGE_OWN_TASKS: Grant(
        Role.EDITOR,
        "Change, cancel, retry and delete one's own or assigned tasks; their conversations.",
    ),
    Permission.IMPORT_TASKS: Grant(Role.EDITOR, "Import tasks from a CSV file."),
    Permission.CHANGE_ANY_TASK: Grant(
        Role.OPERATOR, "Change, cancel, retry and delete all tasks and conversations."
    ),
    Permission.OPERATE: Grant(
        Role.OPERATOR,
        "Pause and resume queues, set limits, release workers, write schedules, run the loader.",
    ),
    Permission.READ_SETTINGS: Grant(Role.VIEWER, "Read application settings."),
    Permission.WRITE_SETTINGS: Grant(Role.ADMIN, "Write and delete application settings."),
    Permission.ERASE_TASKS: Grant(Role.ADMIN, "Delete tasks permanently."),
    Permission.READ_AUDIT_LOG: Grant(Role.ADMIN, "Read the audit log of all tasks."),
    Permission.MANAGE_USERS: Grant(Role.ADMIN, "Register, list, change and disable users."),
}
"""One entry per permission; a test checks that it is complete."""
