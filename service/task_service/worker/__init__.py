"""The worker: claims tasks, runs their handlers, reports, and looks after what other workers left
behind.
"""

from task_service.worker.handlers import Cancel, Context, Discard, Retry, Snooze, handler

__all__ = ["Cancel", "Context", "Discard", "Retry", "Snooze", "handler"]
