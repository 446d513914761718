"""Schema revisions: what this code brings, what it needs, and which databases it may run on.

Migrations only expand; what contracts ships a release later, and raises `oldest_code`. So version 1
runs, and restarts, on a database that version 2 has migrated.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NEEDS = 4
"""The oldest schema revision that this code can run on."""

VERSIONS = Path(__file__).parent / "versions"


@cache
def code_revision() -> int:
    """The newest revision that this code brings: the highest number of a file in `versions/`."""
    return max(
        int(match[1]) for f in VERSIONS.iterdir() if (match := re.match(r"(\d{4})_.+\.py$", f.name))
    )


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What the database says of itself: its revision, and the oldest code that works on it."""

    revision: int
    oldest_code: int

    def why_incompatible(self, needs: int, code: int) -> str | None:
        """Say in a sentence why code may not run here; None when it may.

        >>> SchemaState(revision=5, oldest_code=3).why_incompatible(needs=4, code=4)
        >>> SchemaState(revision=3, oldest_code=1).why_incompatible(needs=4, code=4)
        'the database is at schema revision 3, this version needs 4: run task-service migrate'
        >>> SchemaState(revision=9, oldest_code=8).why_incompatible(needs=4, code=7)
        'the database has moved on to schema revision 9, which needs version 8 or newer of the schema code (this is 7)'
        """
        if self.revision < needs:
            return (
                f"the database is at schema revision {self.revision}, this version needs {needs}: "
                "run task-service migrate"
            )
        if code < self.oldest_code:
            return (
                f"the database has moved on to schema revision {self.revision}, "
                f"which needs version {self.oldest_code} or newer of the schema code (this is {code})"
            )
        return None


def statements(script: str) -> Iterator[str]:
    r"""Split an SQL script at semicolons that end a line, but for those in $$ bodies (drivers take
    one at a time).

    >>> list(statements("-- one; two\nSELECT 1;\n\nSELECT 2;\n"))
    ['-- one; two\nSELECT 1', 'SELECT 2']
    >>> list(statements("DO $$\nBEGIN\n    a;\nEND\n$$;\nSELECT 1;"))
    ['DO $$\nBEGIN\n    a;\nEND\n$$', 'SELECT 1']
    """
    part = ""
    for piece in re.split(r"(;[ \t]*(?:\n|$))", script):
        ends = piece.startswith(";") and part.count("$$") % 2 == 0
        if not ends:
            part += piece
        elif part.strip():
            yield part.strip()
        if ends:
            part = ""
    if part.strip():
        yield part.strip()
