"""Constants and helpers of the sample handlers."""

from pathlib import Path

from task_service.worker import Context

LONG_SECONDS = 600


def write_file(context: Context, text: str) -> None:
    """Write `text` to the payload's `file` atomically."""
    file = Path(context.payload["file"])
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").rename(file)
