"""Background loop that reads events and delivers them to the streams of this process."""

from task_service.loops.loop import Loop
from task_service.services.events.broadcaster import Broadcaster

RETRY_SECONDS = 1.0


def events_loop(broadcaster: Broadcaster, poll_seconds: float) -> Loop:
    """Create the loop. It stops before the broadcaster, which ends the streams."""
    return Loop(
        "events", broadcaster.once, poll_seconds, broadcaster.wake, retry_seconds=RETRY_SECONDS
    )
