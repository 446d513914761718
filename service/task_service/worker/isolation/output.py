"""What a process prints, as lines of the worker's log, within bounds."""

import os
import select
import time
from collections.abc import Callable
from typing import IO, Any

CHUNK_BYTES, LINE_MAX_BYTES, LINES_MAX = 65_536, 2_000, 1_000
FLOOD_PAUSE_SECONDS = 0.01
"""Between chunks that are thrown away: 6 MB a second, which costs the worker nothing."""
LOOK_MILLISECONDS = 500


def log_output(output: IO[bytes], ended: Callable[[], bool], log: Any) -> None:
    """Log the first lines and throw the rest away, slowly, until nobody can write any more, or all
    is read and `ended`.

    Blocks, and closes `output`. What the process has left behind may hold the other end for ever.
    """
    poll = select.poll()
    poll.register(output, select.POLLIN)
    count, rest = 0, b""
    with output:
        while (readable := poll.poll(LOOK_MILLISECONDS)) or not ended():
            if not readable:
                continue
            if not (chunk := os.read(output.fileno(), CHUNK_BYTES)):
                break
            if count > LINES_MAX:
                time.sleep(FLOOD_PAUSE_SECONDS)
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_MAX_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines[: LINES_MAX - count]:
                _log(log, line)
            count += len(lines)
            if count > LINES_MAX:
                log.warning("handler_output_cut", lines=LINES_MAX)
        if rest and count < LINES_MAX:
            _log(log, rest)


def _log(log: Any, line: bytes) -> None:
    log.info("handler_output", line=line[:LINE_MAX_BYTES].decode(errors="replace").rstrip())
