"""`python -m task_operator`: the same as the command `task-operator`."""

import sys

from task_operator.process.cli import main

if __name__ == "__main__":
    sys.exit(main())
