"""Console script. It handles SIGTERM before it imports the commands.

As process 1 of a container, a program ignores every SIGTERM for which it has no handler, and runs
on until the kubelet kills it at the end of the grace period. The imports take half a second, so the
handler is installed first.
"""

import sys

from task_service.signals import exit_on_sigterm


def main() -> None:
    """Import the commands and run one. Without the extra, name it and exit with 1."""
    exit_on_sigterm()
    try:
        from task_service.cli import main as run  # noqa: PLC0415 - the handler has to come first

        run()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("task_"):
            raise
        print(
            f"task-service needs the extra 'service' (module {error.name} is missing): "
            "pip install 'task-service[service]'",
            file=sys.stderr,
        )
        sys.exit(1)
