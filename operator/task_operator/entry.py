"""The console script: hears SIGTERM from its first line on.

As process 1 of a container a program drops every SIGTERM for which it has no handler, and lives on until the kubelet
kills it at the end of the grace period. The imports take a second, so the handler comes before them.
"""

import os
import signal


def main() -> int:
    """Import the commands and run one; returns the exit code. Until the operator runs, SIGTERM ends it at once."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from task_operator.process.cli import main as run  # noqa: PLC0415 - the point of this module

    return run()
