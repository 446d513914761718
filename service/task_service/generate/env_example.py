"""Generator of `.env.example`."""

from pathlib import Path

from task_service.settings_help import render


def main(check: bool = False, root: Path | None = None) -> list[str]:
    """Write `.env.example`. Returns its name if it was stale; `check` writes nothing."""
    path = (root or Path.cwd()) / ".env.example"
    text = render()
    stale = not path.exists() or path.read_text() != text
    if stale and not check:
        path.write_text(text)
    return [path.name] if stale else []
