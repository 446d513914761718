"""Console script that installs a SIGTERM handler before the slow imports.

Process 1 of a container ignores SIGTERM as long as it has no handler, so the kubelet would have to
kill it at the end of the grace period. The imports take a second.
"""

import os
import signal


def main() -> int:
    """Run the command; return the exit code. SIGTERM exits immediately until the operator runs."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    from task_operator.process.cli import main as run  # noqa: PLC0415 - see the docstring of this module

    return run()
