"""Lints the migrations: squawk reads the SQL of every revision, as Alembic renders it without a database."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from task_service.migrations.runner import alembic_config

POSTGRES_VERSION = "17.0"
EXCLUDED = (
    "prefer-bigint-over-int",  # a number of attempts is no key
    "prefer-bigint-over-smallint",
    "prefer-robust-stmts",  # a migration is one transaction: it never has to go on where it stopped
    "prefer-text-field",  # Alembic's own table
    "require-timeout-settings",  # the runner sets lock_timeout
    "require-concurrent-index-deletion",
    "require-concurrent-index-creation",  # within the transaction there is no CONCURRENTLY; the runner bounds the lock
)


def revisions() -> list[str]:
    """All revisions, oldest first. Raises SystemExit when they are not one line of descent."""
    script = ScriptDirectory.from_config(alembic_config())
    heads = script.get_heads()
    if len(heads) != 1:
        raise SystemExit(f"migrations: one head is allowed, there are {sorted(heads)}")
    return [step.revision for step in reversed(list(script.walk_revisions()))]


def sql(older: str, newer: str) -> str:
    """The SQL from one revision to the next, without the transaction around it (it is the runner's)."""
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
    """Lint the files; the return code is not 0 when there is a finding, the output names file, line and rule."""
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
