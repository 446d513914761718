"""The API server's audit log."""

import json
from pathlib import Path
from typing import Any


class AuditLog:
    """Log of all write requests, including dry runs and no-ops, in order of completion."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """Return the current end of the log."""
        return self.path.stat().st_size

    def since(self, mark: int, user: str) -> list[dict[str, Any]]:
        """Return the writes of a user, such as system:serviceaccount:NAMESPACE:NAME, after a mark.

        Each has `verb`, `objectRef` (resource, namespace, name, subresource), `responseStatus.code`
        and `requestURI`.
        """
        with self.path.open("rb") as log:
            log.seek(mark)
            lines = log.read().decode().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in events if event["user"]["username"] == user]


def describe(events: list[dict[str, Any]]) -> list[str]:
    """Return one line per write: verb, resource and name."""
    lines = []
    for event in events:
        target = event.get("objectRef", {})
        kind = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        lines.append(
            f"{event['verb']} {kind} {target.get('namespace', '')}/{target.get('name', '')}"
        )
    return lines
