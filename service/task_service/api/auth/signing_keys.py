"""The secret keys that sign our tokens: validation, loading and reloading."""

import re
import secrets
import time
from itertools import pairwise
from pathlib import Path

import structlog

from task_service.settings import Settings

LENGTH_MIN = 32
PAIRS_MIN = 20
"""Minimum number of distinct adjacent pairs; 32 random hexadecimal digits have 29 on average."""
LOOK_AGAIN_SECONDS = 1.0
KNOWN = (
    "changeme", "changethis", "changeit", "replaceme", "replacethis", "yoursecret", "mysecret",
    "supersecret", "secretkey", "notsecret", "insecure", "default", "example", "password",
    "development", "qwertyuiop", "asdfghjkl", "keepthissecret", "dontuse", "donotuse",
    "testkey", "jwtsecret", "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
)  # fmt: skip
"""Keys from examples, letters and digits only. The last one is from FastAPI's tutorial."""
HOW_TO = "Generate one with: openssl rand -base64 48"
log = structlog.get_logger(__name__)


class NoKeyError(ValueError):
    """The signing key is missing or weak. The text explains how to fix it."""


def weakness(key: str) -> str | None:
    """Return the reason why a secret is weak; None for a strong one.

    >>> weakness("short")
    'has 5 characters; at least 32 are required'
    >>> weakness("please-change-me-please-change-me-please")
    'is a key from a public example'
    >>> weakness("abcdefgh" * 5), weakness("".join(map(chr, range(48, 90))))
    ('repeats itself or follows a pattern', 'repeats itself or follows a pattern')
    >>> weakness("c94a7b1f0e5d8632c94b7a1e0f5d8362") is None
    True
    """
    if len(key) < LENGTH_MIN:
        return f"has {len(key)} characters; at least {LENGTH_MIN} are required"
    plain = re.sub(r"[^a-z0-9]", "", key.lower())
    if any(known in plain for known in KNOWN):
        return "is a key from a public example"
    pairs = list(pairwise(key))
    steps = sum(abs(ord(a) - ord(b)) <= 1 for a, b in pairs)
    if len(set(pairs)) < PAIRS_MIN or steps * 2 > len(pairs):
        return "repeats itself or follows a pattern"
    return None


def must_be_strong(settings: Settings) -> bool:
    """Return whether the API requires a strong, configured secret."""
    return settings.auth_mode == "required" or settings.environment != "development"


class SigningKeys:
    """The secret keys; the first one signs.

    SECRET_KEY_FILE may have several lines: put a new key above the old one, and tokens of both are
    valid. The file is reloaded when it changes. A missing or weak key then keeps the previous keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.secret_key_file
        self._strong = must_be_strong(settings)
        self._looked_at = time.monotonic()
        self._stamp = _stamp(self._file)
        self._keys = self._checked(self._read(settings))

    def __call__(self) -> tuple[str, ...]:
        """Return the current keys."""
        if self._file is not None and time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
            self._looked_at = time.monotonic()
            stamp = _stamp(self._file)
            if stamp != self._stamp:
                self._reload(self._file)
                self._stamp = stamp
        return self._keys

    def _reload(self, file: Path) -> None:
        try:
            self._keys = self._checked(_lines(file.read_text()))
            log.info("secret_key_read_again")
        except (OSError, UnicodeDecodeError, NoKeyError) as error:
            log.error("secret_key_not_read_again", error=str(error))

    def _read(self, settings: Settings) -> tuple[str, ...]:
        if self._file is not None:
            try:
                return _lines(self._file.read_text())
            except (OSError, UnicodeDecodeError) as error:
                raise NoKeyError(f"SECRET_KEY_FILE cannot be read: {error}") from None
        if settings.secret_key is not None:
            return (settings.secret_key,)
        if not self._strong:
            log.warning(
                "secret_key_random",
                meaning="tokens expire with this process; set SECRET_KEY to keep them",
            )
            return (secrets.token_urlsafe(48),)
        return ()

    def _checked(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        name = "SECRET_KEY_FILE" if self._file else "SECRET_KEY"
        if not keys:
            raise NoKeyError(f"{name} is missing: it signs the tokens. {HOW_TO}")
        for key in keys:
            if self._strong and (why := weakness(key)):
                raise NoKeyError(f"{name} is too weak: it {why}. {HOW_TO}")
        return keys


def _lines(content: str) -> tuple[str, ...]:
    return tuple(line for line in (part.strip() for part in content.splitlines()) if line)


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        stat = file.stat() if file else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else None
