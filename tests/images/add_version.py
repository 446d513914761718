"""Runs in an image's build: adds a migration to the service's own, under the number after its
highest.
"""

import shutil
import sys
from pathlib import Path

from task_service.migrations import VERSIONS, code_revision

source = Path(sys.argv[1])
shutil.copy(source, VERSIONS / f"{code_revision() + 1:04}_{source.name}")
