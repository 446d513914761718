"""Generator of `docs/reference/api.md`, from the routes and their models."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from task_service.api.app import create_app
from task_service.queue.wakeups import Wakeups
from task_service.settings import Settings
from task_service.store.database import create_engine

PAGE = Path("docs/reference/api.md")
HEAD = """\
# The HTTP API

This page is generated from the routes (`make generate`). A running service has an interactive
version at `/docs` and the OpenAPI document at `/openapi.json`. The paths at the root are those for
`ROOT_COMPATIBILITY=c`; the paths of every old service are also under `/compat/a` to `/compat/e`.

See [permissions](permissions.md) for the roles, and the [README](../../README.md) and
[security](../security.md) for errors, pages and limits.
"""
COMMON = ("401", "403", "422", "429", "503")
"""Responses of nearly every operation. The page describes them once."""
COMMON_NOTE = """\
Unless noted otherwise, every operation may also answer 401 (not authenticated), 403 (missing role),
422 (invalid field or parameter), 429 (too many requests) and 503 (database unavailable), with a
`Problem`.
"""


def main(check: bool = False, root: Path | None = None) -> list[str]:
    """Write the page. Returns its name if it was stale; `check` writes nothing."""
    return write(PAGE, render(application().openapi()), check=check, root=root)


def write(page: Path, text: str, *, check: bool, root: Path | None = None) -> list[str]:
    """Write a generated page unless `check`. Returns its name if it was stale."""
    path = (root or Path.cwd()) / page
    stale = not path.exists() or path.read_text() != text
    if stale and not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [str(page)] if stale else []


def application() -> FastAPI:
    """Return the application with default settings. It opens no connections."""
    settings = Settings.model_construct(
        database_url="postgresql://localhost/tasks",
        secret_key="unused",  # noqa: S106 # nosec B106
    )

    async def silent(_: list[str]) -> None:
        """Do not notify workers."""

    settings = settings.model_copy(update={"auth_mode": "open"})
    return create_app(settings, create_engine(settings), Wakeups(silent))


def render(schema: dict[str, Any]) -> str:
    """Return the page."""
    shown = {
        path: methods
        for path, methods in schema["paths"].items()
        if not path.startswith("/compat/")
    }
    tags: dict[str, list[str]] = {}
    for path, methods in shown.items():
        for method, operation in methods.items():
            tags.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    meanings = {tag["name"]: tag.get("description", "") for tag in schema.get("tags", [])}
    parts = [HEAD, COMMON_NOTE]
    for tag, sections in tags.items():
        parts += [
            f"## {tag[0].upper()}{tag[1:]}\n",
            f"{meanings[tag]}\n" if meanings.get(tag) else "",
            *sections,
        ]
    parts.append("## Schemas\n")
    shapes = schema["components"]["schemas"]
    parts += [_shape(name, shapes[name]) for name in sorted(_reachable(shown, shapes))]
    return "\n".join(part for part in parts if part)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`\n", _one_line(operation.get("description", "")) + "\n"]
    rows = [_parameter(p) for p in operation.get("parameters", []) if p["in"] != "path"]
    if rows:
        lines += ["| parameter | in | type | description |", "|---|---|---|---|", *rows, ""]
    if body := operation.get("requestBody"):
        bodies = [
            f"{_kind(content['schema'])} ({media})" for media, content in body["content"].items()
        ]
        lines.append(f"Body: {', '.join(bodies)}.\n")
    answers = operation["responses"]
    shown = [
        f"{status}{shape}"
        for status in answers
        if (shape := _answer(answers[status])) or status not in COMMON
    ]
    never = [status for status in COMMON if status not in answers]
    lines.append(f"Responses: {', '.join(shown)}{'; never ' if never else ''}{', '.join(never)}.\n")
    return "\n".join(lines)


def _parameter(parameter: dict[str, Any]) -> str:
    needed = ", required" if parameter.get("required") else ""
    schema = parameter["schema"]
    meaning = parameter.get("description", schema.get("description", ""))
    return _row(f"`{parameter['name']}`", f"{parameter['in']}{needed}", _kind(schema), meaning)


def _answer(found: dict[str, Any]) -> str:
    """Return the schema of a response, unless it is the common problem."""
    kinds = [_kind(c["schema"]) for c in found.get("content", {}).values() if c.get("schema")]
    return f" {kinds[0]}" if kinds and kinds[0] != _link("Problem") else ""


def _shape(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### `{name}`\n"]
    if schema.get("description"):
        lines.append(_one_line(schema["description"]) + "\n")
    if "properties" not in schema:
        return "\n".join([*lines, f"{_kind(schema)}.\n"])
    required = schema.get("required", [])
    lines += ["| field | type | description |", "|---|---|---|"]
    for field, inner in schema["properties"].items():
        needed = "required; " if field in required else ""
        lines.append(
            _row(
                f"`{field}`",
                f"{needed}{_kind(inner)}{_default(inner)}",
                inner.get("description", ""),
            )
        )
    return "\n".join([*lines, ""])


def _kind(schema: dict[str, Any]) -> str:
    """Describe a schema briefly.

    >>> _kind({"type": "string", "minLength": 1, "maxLength": 200})
    'string of 1 to 200'
    >>> _kind({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]})
    'integer from 0 or null'
    """
    if reference := schema.get("$ref"):
        return _link(reference.rpartition("/")[2])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    for several, word in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")):
        if several in schema:
            return word.join(dict.fromkeys(_kind(inner) for inner in schema[several]))
    kind = schema.get("type", "any JSON")
    if kind == "array":
        return f"list{_bounds(schema, 'minItems', 'maxItems')} of {_kind(schema.get('items', {}))}"
    if "format" in schema:
        return str(schema["format"])
    lengths = _bounds(schema, "minLength", "maxLength")
    return f"{kind}{lengths}{_bounds(schema, 'minimum', 'maximum', 'from', 'up to')}"


def _bounds(
    schema: dict[str, Any],
    least: str,
    most: str,
    from_: str = "of at least",
    to: str = "of at most",
) -> str:
    low, high = schema.get(least), schema.get(most)
    if low is not None and high is not None:
        return f" {'of' if from_.startswith('of') else from_} {low} to {high}"
    return f" {from_} {low}" if low is not None else f" {to} {high}" if high is not None else ""


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return f"; default `{default}`" if default not in (None, "", []) else ""


def _link(name: str) -> str:
    return f"[`{name}`](#{name.lower()})"


def _row(*cells: str) -> str:
    return f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _reachable(start: Any, shapes: dict[str, Any]) -> set[str]:
    """Return the schemas that are referenced directly or indirectly."""
    found: set[str] = set()
    waiting = list(_references(start))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _references(shapes[name])
    return found


def _references(node: Any) -> Iterator[str]:
    yield from re.findall(r"#/components/schemas/([\w.-]+)", str(node))
