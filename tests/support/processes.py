"""Processes that tests look for by their ids, and files that they write."""

import os
from pathlib import Path

from tests.support.waiting import eventually


async def wait_for_text(file: Path) -> str:
    """Wait until a process has written the file, and return its content."""

    async def read() -> str:
        return _read(file)

    return await eventually(f"{file.name} is written", read, 30)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def wait_for_pids(file: Path) -> list[int]:
    """Wait until a process has written process ids to the file, and return them."""
    return [int(pid) for pid in (await wait_for_text(file)).split()]


async def wait_until_gone(pids: list[int]) -> None:
    """Wait until none of these processes runs; a zombie does not run."""

    async def are_gone() -> bool:
        return not any(is_running(pid) for pid in pids)

    await eventually(f"the end of {pids}", are_gone)


def is_running(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_children_in(group: int) -> bool:
    """Return whether this process has children, including zombies, in the process group."""
    try:
        os.waitpid(-group, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def members_of_group(leader: int) -> list[int]:
    """Return the running processes of the leader's process group."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if is_running(pid) and _group_of(pid) == leader]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
