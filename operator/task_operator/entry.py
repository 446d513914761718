"""Console script that installs a SIGTERM handler before the slow imports.

Process 1 of a container ignores SIGTERM as long as it has no handler, so the kubelet would have to
kill it at the end of the grace period. The imports take a second.
"""

import os
import signal
import sys


def main() -> int:
    """Run the command and return the exit code. Without the extra, name it and return 1.

    SIGTERM exits immediately until the operator runs.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        from task_operator.process.cli import main as run  # noqa: PLC0415 - see the module docstring

        return run()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("task_"):
            raise
        print(
            f"task-operator needs the extra 'operator' (module {error.name} is missing): "
            "pip install 'task-service[operator]'",
            file=sys.stderr,
        )
        return 1
