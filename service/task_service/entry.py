"""The console script: hears SIGTERM from its first line on.

As process 1 of a container a program drops every SIGTERM for which it has no handler, and lives on until the kubelet
kills it at the end of the grace period. The imports take half a second, so the handler comes before them.
"""

import os
import signal


def leave_at_sigterm() -> None:
    """End at once at SIGTERM: nothing has begun, and an exception raised amid an import may be swallowed."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))


def main() -> None:
    """Import the commands and run one."""
    leave_at_sigterm()
    from task_service.cli import main as run  # noqa: PLC0415 - the point of this module

    run()
