"""The handlers of installed packages: entry points of the group `task_service.handlers`."""

from importlib.metadata import EntryPoint, entry_points

import structlog

from task_service.worker.handlers import Handler

ENTRY_POINTS = "task_service.handlers"
log = structlog.get_logger(__name__)


def installed_handlers() -> list[Handler]:
    """Load every handler that the installed packages offer; one that cannot be loaded is logged and
    left out.
    """
    return [found for entry in entry_points(group=ENTRY_POINTS) if (found := _load(entry))]


def _load(entry: EntryPoint) -> Handler | None:
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - one broken package must not stop the others
        log.error("handler_not_loaded", handler=entry.name, source=entry.value, error=repr(error))
        return None
    if not isinstance(found, Handler):
        log.error(
            "handler_not_loaded",
            handler=entry.name,
            source=entry.value,
            error="not made by @handler",
        )
        return None
    return found
