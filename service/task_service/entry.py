"""Console script. It handles SIGTERM before it imports the commands.

As process 1 of a container, a program ignores every SIGTERM for which it has no handler, and runs on
until the kubelet kills it at the end of the grace period. The imports take half a second, so the
handler is installed first.
"""

from task_service.signals import exit_on_sigterm


def main() -> None:
    """Import the commands and run one."""
    exit_on_sigterm()
    from task_service.cli import main as run  # noqa: PLC0415 - the handler has to come first

    run()
