"""A process whose clock is off: a library before the C library's, which changes the wall's clock
and no other one.
"""

import shutil
import subprocess
from pathlib import Path

from tests.support.skipping import skip_or_fail

SOURCE = Path(__file__).with_suffix(".c")


class WallClock:
    """The compiled library."""

    def __init__(self, folder: Path) -> None:
        """Compile it into this folder. The test is left out without a compiler, unless
        REQUIRE_CLUSTER=1.
        """
        compiler = shutil.which("cc")
        if compiler is None:
            skip_or_fail("no C compiler on this machine (Debian's package is gcc)")
        self._library = folder / "wall_clock.so"
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", self._library, SOURCE], check=True
        )

    def environment(self, hours: int) -> dict[str, str]:
        """What a process's environment needs besides, for its clock to be so many hours ahead;
        nothing for none.
        """
        return (
            {"LD_PRELOAD": str(self._library), "WALL_CLOCK_SECONDS": str(3600 * hours)}
            if hours
            else {}
        )
