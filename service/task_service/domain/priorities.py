"""Priorities: words for people, small numbers in the database (smaller runs first)."""

from enum import StrEnum


class Priority(StrEnum):
    """How urgent a task is."""

    URGENT = "urgent"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Return the number by which the queue sorts.

        >>> [p.rank for p in Priority]
        [0, 1, 2, 3]
        """
        return RANKS[self]


RANKS = {priority: rank for rank, priority in enumerate(Priority)}
BY_RANK = tuple(Priority)


def parse_priority(text: str) -> Priority:
    """Parse a priority. Case is ignored.

    >>> parse_priority(" HIGH ")
    <Priority.HIGH: 'high'>
    """
    try:
        return Priority(text.strip().lower())
    except ValueError:
        raise ValueError(f"unknown priority {text[:50]!r}: use low, medium, high, urgent") from None
