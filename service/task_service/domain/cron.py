"""Times at which a cron expression fires in a time zone. Pure; built on the library cronsim.

Expressions have five fields, as in Debian's cron, or are nicknames such as `@daily`. When clocks
go forward, a job at a fixed time within the gap runs at its end. When clocks go back, it runs once,
at the first pass. Jobs with `*` in the minute or hour follow elapsed time: they do not run within a
gap, and run in both passes of an overlap.
"""

import re
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

CRON_MAX = 200
OVERLAP = timedelta(hours=3)
"""Longer than any change of clocks."""
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
FIELDS = "minute hour day-of-month month day-of-week"
EXAMPLE = "such as `*/15 8-17 * * MON-FRI`"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def parse_zone(name: str) -> ZoneInfo:
    """Return the time zone with an IANA name. Raises ValueError for an unknown one.

    >>> parse_zone("Europe/Berlin").key
    'Europe/Berlin'
    >>> parse_zone("Mars/Olympus")
    Traceback (most recent call last):
    ValueError: unknown time zone 'Mars/Olympus'; use an IANA name such as Europe/Berlin or UTC
    """
    if name not in _zones():  # ZoneInfo would open a file or folder of that name
        raise ValueError(
            f"unknown time zone {name[:60]!r}; use an IANA name such as Europe/Berlin or UTC"
        )
    return ZoneInfo(name)


def check_cron(text: str) -> str:
    """Return the expression with single spaces. Raises ValueError if it is invalid or never fires.

    >>> check_cron(" 0  12 * * mon-fri"), check_cron("@Daily")
    ('0 12 * * mon-fri', '@daily')
    >>> check_cron("0 0 30 2 *")
    Traceback (most recent call last):
    ValueError: never fires: the month does not have that day
    """
    words = text.split()
    if len(text) > CRON_MAX:
        raise ValueError(f"must have at most {CRON_MAX} characters")
    if text.strip().startswith("@"):
        nickname = text.strip().lower()
        if nickname not in NICKNAMES:
            raise ValueError(
                f"unknown nickname {nickname[:20]!r}; use {', '.join(NICKNAMES)}, "
                f"or five fields {EXAMPLE}"
            )
        return nickname
    if len(words) != 5:
        raise ValueError(f"has {len(words)} fields instead of five: {FIELDS}, {EXAMPLE}")
    tidy = " ".join(words)
    if not re.fullmatch(r"[0-9A-Za-z*/,#\- ]+", tidy):
        raise ValueError(f"contains an invalid character; the fields are {FIELDS}, {EXAMPLE}")
    if next(times_after(tidy, "UTC", datetime(2024, 1, 1, tzinfo=UTC)), None) is None:
        raise ValueError("never fires within the next fifty years")
    return tidy


def times_after(cron: str, zone: str, moment: datetime) -> Iterator[datetime]:
    """Yield the times after `moment`, in UTC and in order. Raises ValueError if invalid.

    >>> after = datetime(2026, 3, 28, 12, tzinfo=UTC)  # clocks go forward the next night
    >>> [t.isoformat() for t, _ in zip(times_after("30 2 * * *", "Europe/Berlin", after), range(2))]
    ['2026-03-29T01:00:00+00:00', '2026-03-30T00:30:00+00:00']
    """
    last = moment
    for local in _simulate(cron, zone, moment):
        found = local.astimezone(UTC)
        if found > last:  # in an overlap cronsim restarts at the first pass
            last = found
            yield found


def next_after(cron: str, zone: str, moment: datetime) -> datetime | None:
    """Return the first time after `moment`; None if it does not fire within fifty years."""
    return next(times_after(cron, zone, moment), None)


def latest_until(cron: str, zone: str, first: datetime, now: datetime, most: int) -> list[datetime]:
    """Return the last `most` times in [first, now]. `first` is a time of the expression.

    >>> first = datetime(1999, 1, 1, tzinfo=UTC)
    >>> now = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
    >>> [t.isoformat() for t in latest_until("@hourly", "UTC", first, now, 2)]
    ['2026-01-01T01:00:00+00:00', '2026-01-01T02:00:00+00:00']
    """
    # Backwards only to find a start: cronsim's directions differ when clocks go back.
    backwards = _simulate(cron, zone, now, reverse=True)
    begin = first
    for begin, _ in zip((time.astimezone(UTC) for time in backwards), range(most), strict=False):
        if begin < first:
            break
    begin = max(first, begin - OVERLAP)
    found: deque[datetime] = deque(maxlen=most)
    for time in times_after(cron, zone, begin - timedelta(microseconds=1)):
        if time > now:
            break
        found.append(time)
    return list(found)


def _simulate(cron: str, zone: str, moment: datetime, *, reverse: bool = False) -> CronSim:
    expression = NICKNAMES.get(cron, cron)
    try:
        return CronSim(expression, moment.astimezone(parse_zone(zone)), reverse)
    except CronSimError as error:
        raise ValueError(_describe_error(expression, error)) from None


def _describe_error(expression: str, error: CronSimError) -> str:
    """Return cronsim's error, with the part of the expression that it refers to.

    >>> _describe_error("0 25 * * *", CronSimError("Bad hour"))
    "invalid field hour: '25'"
    """
    name = str(error).removeprefix("Bad ")
    if name not in FIELDS.split():
        return str(error)
    word = expression.split()[FIELDS.split().index(name)]
    if name == "day-of-month" and re.fullmatch(r"(29|3[01])([-,](29|3[01]))*", word):
        return "never fires: the month does not have that day"
    return f"invalid field {name}: {word!r}"
