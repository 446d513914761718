"""Lint the SQL of every migration with squawk. Alembic renders the SQL without a database."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from task_service.migrations.upgrade import alembic_config

POSTGRES_VERSION = "17.0"
EXCLUDED = (
    "prefer-bigint-over-int",  # a number of attempts is not a key
    "prefer-bigint-over-smallint",
    "prefer-robust-stmts",  # a migration is one transaction, so it never resumes halfway
    "prefer-text-field",  # Alembic's own table
    "require-timeout-settings",  # the runner sets lock_timeout
    "require-concurrent-index-deletion",
    "require-concurrent-index-creation",  # impossible in a transaction; the runner bounds the lock
)


def revisions() -> list[str]:
    """Return all revisions, oldest first. Raises SystemExit if there is more than one head."""
    script = ScriptDirectory.from_config(alembic_config())
    heads = script.get_heads()
    if len(heads) != 1:
        raise SystemExit(f"migrations: expected exactly one head, found {sorted(heads)}")
    return [step.revision for step in reversed(list(script.walk_revisions()))]


def sql(older: str, newer: str) -> str:
    """Return the SQL between two revisions, without BEGIN and COMMIT, which the runner issues."""
    text = io.StringIO()
    config = alembic_config()
    config.output_buffer = text
    command.upgrade(config, f"{older}:{newer}", sql=True)
    return "".join(
        line
        for line in text.getvalue().splitlines(True)
        if line.strip() not in ("BEGIN;", "COMMIT;")
    )


def squawk(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Lint the files. The return code is not 0 if the output contains findings."""
    program = Path(sys.executable).with_name("squawk")
    flags = ["--reporter=gcc", "--assume-in-transaction", f"--pg-version={POSTGRES_VERSION}"]
    excluded = [f"--exclude={rule}" for rule in EXCLUDED]
    argv = [str(word) for word in (program, *flags, *excluded, *paths)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def main() -> int:
    known = revisions()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{newer}.sql" for newer in known]
        for path, older in zip(paths, ["base", *known], strict=False):
            path.write_text(sql(older, path.stem))
        done = squawk(*paths)
    print((done.stdout + done.stderr).replace(f"{folder}/", "").strip(), file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
