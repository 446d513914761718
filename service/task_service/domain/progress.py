"""Progress of a run, as its handler reports it."""

import math
from numbers import Real
from typing import NamedTuple

NOTE_MAX = 200


class Progress(NamedTuple):
    """The completed fraction, from 0 to 1, and a note for people."""

    fraction: float
    note: str | None = None


def check_progress(fraction: object, note: object = None) -> Progress:
    r"""Validate reported progress and truncate the note. Raises TypeError, ValueError.

    >>> check_progress(1, "all\x00 of it")
    Progress(fraction=1.0, note='all\\0 of it')
    >>> check_progress(1.5)
    Traceback (most recent call last):
    ValueError: progress must be a number from 0 to 1, not 1.5
    >>> check_progress("half")
    Traceback (most recent call last):
    TypeError: progress must be a number from 0 to 1, not a str
    """
    if not isinstance(fraction, Real) or isinstance(fraction, bool):
        raise TypeError(f"progress must be a number from 0 to 1, not a {type(fraction).__name__}")
    number = float(fraction)
    if math.isnan(number) or not 0 <= number <= 1:
        raise ValueError(f"progress must be a number from 0 to 1, not {number}")
    if note is None:
        return Progress(number)
    if not isinstance(note, str):
        raise TypeError(f"the progress note must be text, not a {type(note).__name__}")
    text = note[:NOTE_MAX].replace("\x00", "\\0").encode(errors="backslashreplace").decode()
    return Progress(number, text[:NOTE_MAX])
