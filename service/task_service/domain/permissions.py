"""Who may do what: the one table from which the checks and the documentation are made."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller is; each role may do all that the one before may."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether this role may do all that the other may.

        >>> Role.OPERATOR.includes(Role.EDITOR), Role.VIEWER.includes(Role.EDITOR)
        (True, False)
        """
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


class Permission(StrEnum):
    """What an operation of the API takes."""

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
    """The least role that has a permission, and what the permission is for."""

    role: Role
    meaning: str


GRANTS: dict[Permission, Grant] = {
    Permission.READ: Grant(
        Role.VIEWER,
        "Read and export tasks with all that belongs to them, the daily log, queues, workers, schedules.",
    ),
    Permission.CREATE_TASKS: Grant(Role.EDITOR, "Create tasks, one or many."),
    Permission.CHANGE_OWN_TASKS: Grant(
        Role.EDITOR,
        "Change, cancel, retry and delete tasks that one created or is assigned to; their conversations.",
    ),
    Permission.IMPORT_TASKS: Grant(Role.EDITOR, "Import tasks from a CSV file."),
    Permission.CHANGE_ANY_TASK: Grant(
        Role.OPERATOR, "Change, cancel, retry and delete everybody's tasks and conversations."
    ),
    Permission.OPERATE: Grant(
        Role.OPERATOR,
        "Pause and resume queues, set limits, release workers, write schedules, run the daily loader.",
    ),
    Permission.READ_SETTINGS: Grant(Role.VIEWER, "Read application settings."),
    Permission.WRITE_SETTINGS: Grant(Role.ADMIN, "Write and delete application settings."),
    Permission.ERASE_TASKS: Grant(Role.ADMIN, "Delete tasks for good."),
    Permission.READ_AUDIT_LOG: Grant(Role.ADMIN, "Read the audit log of all tasks."),
    Permission.MANAGE_USERS: Grant(Role.ADMIN, "Register, list, change and disable users."),
}
"""One line per permission; a test holds that none is missing."""
