"""Generator of `docs/reference/permissions.md`, from the permission table."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute

from task_service.api.security import rules_of
from task_service.domain.permissions import GRANTS, Permission, Role
from task_service.generate.api_reference import application, write

PAGE = Path("docs/reference/permissions.md")
HEAD = """\
# Roles and permissions

This page is generated from `domain/permissions.py` (`make generate`), which every check reads. Each
role includes the previous one. A 403 names the caller's `role`, the required role `needs` and the
`permission`. [Security](../security.md) describes how callers get a role.
"""
OWN = """\
Callers without `change_any_task` may change only tasks that they created or are assigned to. A
DELETE with `?hard=true` requires `erase_tasks`.
"""
OPEN = """\
## Without a role

Everyone may call `POST /api/v1/auth/token` and `/refresh`, `/health`, `/docs`, `/redoc` and
`/openapi.json`. Every authenticated caller may call `/api/v1/auth/me`, `/logout` and `/password`.
With `AUTH_MODE=open`, a caller without a token is an administrator named `anonymous`, except for
the operations marked with *.
"""


def main(check: bool = False, root: Path | None = None) -> list[str]:
    """Write the page. Returns its name if it was stale; `check` writes nothing."""
    return write(PAGE, render(application()), check=check, root=root)


def render(app: FastAPI) -> str:
    """Return the page."""
    roles = list(Role)
    lines = [
        HEAD,
        f"| permission | {' | '.join(roles)} | operations |",
        f"|---|{':-:|' * len(roles)}---|",
    ]
    for permission in Permission:
        grant = GRANTS[permission]
        marks = " | ".join("x" if role.includes(grant.role) else "" for role in roles)
        lines.append(f"| `{permission}` | {marks} | {grant.meaning} |")
    lines += ["", OWN, "## Permission of each operation\n"]
    operations = _operations(app)
    for permission in Permission:
        if found := operations.get(permission):
            lines += [f"### `{permission}`\n", *(f"- {operation}" for operation in found), ""]
    return "\n".join([*lines, OPEN])


def _operations(app: FastAPI) -> dict[Permission, list[str]]:
    """Return the operations at the root by the highest permission that they require."""
    found: dict[Permission, list[str]] = {}
    ranks = list(Permission)
    for router in app.state.routers:
        for route in router.routes:
            if (
                isinstance(route, APIRoute)
                and route.include_in_schema
                and not route.path.startswith("/compat/")
            ):
                rules = list(rules_of(route.dependant))
                if rules:
                    permission, always = max(rules, key=lambda rule: ranks.index(rule[0]))
                    methods = " ".join(sorted(route.methods or ()))
                    found.setdefault(permission, []).append(
                        f"`{methods} {route.path}`{' *' if always else ''}"
                    )
    return found
