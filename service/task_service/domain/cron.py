"""When a cron expression fires in a time zone: pure, over the library cronsim.

Five fields as Debian's cron reads them, and `@daily` and its like. Where clocks are put forward, a job at a fixed time
within the gap runs at its end; where they are put back, it runs once, the first time. Jobs of a finer grain (`*` in the
minute or the hour) follow the time that passes: none within a gap, in both passes of an overlap.
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
"""More than any clock is put forward or back."""
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
    """The time zone of an IANA name; ValueError for what is none.

    >>> parse_zone("Europe/Berlin").key
    'Europe/Berlin'
    >>> parse_zone("Mars/Olympus")
    Traceback (most recent call last):
    ValueError: there is no time zone 'Mars/Olympus'; use an IANA name such as Europe/Berlin or UTC
    """
    if name not in _zones():  # ZoneInfo would open a file of that name, or a folder
        raise ValueError(
            f"there is no time zone {name[:60]!r}; use an IANA name such as Europe/Berlin or UTC"
        )
    return ZoneInfo(name)


def check_cron(text: str) -> str:
    """Return the expression with single blanks; ValueError, saying what is wrong, unless it fires some day.

    >>> check_cron(" 0  12 * * mon-fri"), check_cron("@Daily")
    ('0 12 * * mon-fri', '@daily')
    >>> check_cron("0 0 30 2 *")
    Traceback (most recent call last):
    ValueError: never fires: no such month has that day of the month
    """
    words = text.split()
    if len(text) > CRON_MAX:
        raise ValueError(f"must have at most {CRON_MAX} characters")
    if text.strip().startswith("@"):
        nickname = text.strip().lower()
        if nickname not in NICKNAMES:
            raise ValueError(
                f"unknown nickname {nickname[:20]!r}; use {', '.join(NICKNAMES)}, or five fields {EXAMPLE}"
            )
        return nickname
    if len(words) != 5:
        raise ValueError(f"has {len(words)} fields; it takes five: {FIELDS}, {EXAMPLE}")
    tidy = " ".join(words)
    if not re.fullmatch(r"[0-9A-Za-z*/,#\- ]+", tidy):
        raise ValueError(f"has a character that no field takes; the five are {FIELDS}, {EXAMPLE}")
    if next(times_after(tidy, "UTC", datetime(2024, 1, 1, tzinfo=UTC)), None) is None:
        raise ValueError("never fires: it names a date that no year of the next fifty has")
    return tidy


def times_after(cron: str, zone: str, moment: datetime) -> Iterator[datetime]:
    """The times in UTC, each later than the one before and than `moment`. Raises ValueError for a bad expression.

    >>> after = datetime(2026, 3, 28, 12, tzinfo=UTC)  # clocks go forward the next night
    >>> [t.isoformat() for t, _ in zip(times_after("30 2 * * *", "Europe/Berlin", after), range(2))]
    ['2026-03-29T01:00:00+00:00', '2026-03-30T00:30:00+00:00']
    """
    last = moment
    for local in _simulate(cron, zone, moment):
        found = local.astimezone(UTC)
        if found > last:  # within an overlap cronsim begins anew at its first pass
            last = found
            yield found


def next_after(cron: str, zone: str, moment: datetime) -> datetime | None:
    """The first time after `moment`; None when there is none within fifty years."""
    return next(times_after(cron, zone, moment), None)


def latest_until(cron: str, zone: str, first: datetime, now: datetime, most: int) -> list[datetime]:
    """The last `most` times from `first`, which is one of them, until `now`: both are taken in.

    >>> first = datetime(1999, 1, 1, tzinfo=UTC)
    >>> [t.isoformat() for t in latest_until("@hourly", "UTC", first, datetime(2026, 1, 1, 2, 30, tzinfo=UTC), 2)]
    ['2026-01-01T01:00:00+00:00', '2026-01-01T02:00:00+00:00']
    """
    # Backwards only to know where to begin: cronsim's way back and forth differ where clocks are put back.
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
        raise ValueError(_what_is_wrong(expression, error)) from None


def _what_is_wrong(expression: str, error: CronSimError) -> str:
    """What cronsim says, and the word of the expression that it says it of.

    >>> _what_is_wrong("0 25 * * *", CronSimError("Bad hour"))
    "the field hour is wrong: '25'"
    """
    name = str(error).removeprefix("Bad ")
    if name not in FIELDS.split():
        return str(error)
    word = expression.split()[FIELDS.split().index(name)]
    if name == "day-of-month" and re.fullmatch(r"(29|3[01])([-,](29|3[01]))*", word):
        return "never fires: no such month has that day of the month"
    return f"the field {name} is wrong: {word!r}"
