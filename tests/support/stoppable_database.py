"""A database on a PostgreSQL server that the test may stop."""

import signal
from dataclasses import dataclass

from task_service.embedded import EmbeddedPostgres


@dataclass
class StoppableDatabase:
    """An empty database; its server runs unless the test has stopped it."""

    server: EmbeddedPostgres
    url: str
    is_running: bool = True

    def stop(self, mode: signal.Signals) -> None:
        """Stop the server: SIGINT shuts it down, SIGQUIT crashes it."""
        self.server.stop(mode)
        self.is_running = False

    def start(self) -> None:
        """Start the server unless it runs."""
        if not self.is_running:
            self.server.start()
            self.is_running = True
