"""Argon2id hashes of passwords, made and verified in threads beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from task_service.domain.errors import UnavailableError
from task_service.domain.password_rules import normalise

THREADS = 2
WAITING_MAX = 64
"""Hashes that may wait for a thread: each takes memory and tens of milliseconds, and anybody may
ask for one.
"""
TIME_COST, MEMORY_KIB, PARALLELISM = 3, 19_456, 1
"""One pass more than OWASP's least for Argon2id; two at once take 38 MiB, which a small pod has."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password is the right one; `new_hash` is set when the stored one was made with
    other parameters.
    """

    good: bool
    new_hash: str | None = None


class Passwords:
    """Hashes in a few threads; UnavailableError when too many wait already."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(TIME_COST, MEMORY_KIB, PARALLELISM, type=Type.ID)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """The hash of a password that `check_password` has let pass."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Compare with a stored hash; without one (no such user) it takes as long, and is wrong."""
        return await self._run(lambda: self._verify(stored, normalise(password)))

    def close(self) -> None:
        """Start no more hashes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str | None, password: str) -> Verdict:
        against = stored
        if against is None:
            self._nobody = against = self._nobody or self._hasher.hash("nobody has this password")
        try:
            self._hasher.verify(against, password.encode(errors="replace"))
        except (VerificationError, InvalidHashError):
            return Verdict(False)
        if stored is None:
            return Verdict(False)
        return Verdict(
            True, self._hasher.hash(password) if self._hasher.check_needs_rehash(stored) else None
        )

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING_MAX:
            raise UnavailableError("Too many log-ins at once; try again.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
