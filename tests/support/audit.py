"""The API server's audit log: who wrote what."""

import json
from pathlib import Path
from typing import Any


class AuditLog:
    """Every write request, dry runs and no-ops too, in the order of their ends; reads are not in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self) -> int:
        """The place where the log ends now."""
        return self.path.stat().st_size

    def since(self, mark: int, user: str) -> list[dict[str, Any]]:
        """The writes of a user, such as system:serviceaccount:NAMESPACE:NAME, that ended after the mark.

        Each has `verb`, `objectRef` (resource, namespace, name, subresource), `responseStatus.code`, `requestURI`.
        """
        with self.path.open("rb") as log:
            log.seek(mark)
            lines = log.read().decode().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in events if event["user"]["username"] == user]


def describe(events: list[dict[str, Any]]) -> list[str]:
    """One line for each write: verb, resource and name."""
    lines = []
    for event in events:
        target = event.get("objectRef", {})
        kind = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        lines.append(
            f"{event['verb']} {kind} {target.get('namespace', '')}/{target.get('name', '')}"
        )
    return lines
