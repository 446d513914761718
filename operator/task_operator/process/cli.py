"""The command `task-operator`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from pydantic import ValidationError

from task_operator.process import log
from task_operator.process.runtime import run
from task_operator.process.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="task-operator", description="Kubernetes operator for task services."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="run the operator; environment variables configure it")
    commands.add_parser(
        "settings", help="print the environment variables of the operator, with their defaults"
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "settings":
        print(describe(), end="")
        return 0
    try:
        settings = Settings.from_environment()
    except ValidationError as error:
        for item in error.errors():
            name = f"{str(item['loc'][0]).upper()}: " if item["loc"] else ""
            print(f"task-operator: {name}{item['msg']}", file=sys.stderr)
        return 2
    log.configure(settings)
    return asyncio.run(run(settings))


def describe() -> str:
    """Return all settings as an environment file in which every line is a comment."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.is_required() else field.default
        shown = ",".join(default) if isinstance(default, tuple) else default
        lines.append(f"# {field.description}\n# {name.upper()}={shown}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
