"""Cron expressions in time zones: clock changes and invalid expressions."""

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_service.domain.cron import check_cron, latest_until, next_after, parse_zone, times_after

BERLIN = "Europe/Berlin"
GAP = datetime(2026, 3, 29, tzinfo=UTC)  # at 01:00 UTC, 02:00 becomes 03:00
OVERLAP = datetime(2026, 10, 25, tzinfo=UTC)  # at 01:00 UTC, 03:00 becomes 02:00


def local(cron: str, after: datetime, count: int, zone: str = BERLIN) -> list[str]:
    times = islice(times_after(cron, zone, after), count)
    return [t.astimezone(parse_zone(zone)).strftime("%d %H:%M %z") for t in times]


def test_fixed_time_in_the_skipped_hour_runs_once_at_its_end() -> None:
    assert local("30 2 * * *", GAP - timedelta(days=1), 3) == [
        "28 02:30 +0100",
        "29 03:00 +0200",
        "30 02:30 +0200",
    ]
    assert local("0,30 2 * * *", GAP, 2) == ["29 03:00 +0200", "30 02:00 +0200"]


def test_fixed_time_in_the_repeated_hour_runs_only_the_first_time() -> None:
    assert local("30 2 * * *", OVERLAP - timedelta(days=1), 3) == [
        "24 02:30 +0200",
        "25 02:30 +0200",
        "26 02:30 +0100",
    ]
    second_pass = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    assert local("30 2 * * *", second_pass, 1) == ["26 02:30 +0100"]


def test_frequent_jobs_skip_the_missing_hour_and_run_in_both_repeated_hours() -> None:
    gap = local("*/30 * * * *", GAP + timedelta(minutes=29), 3)
    assert gap == ["29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"]
    overlap = local("*/30 * * * *", OVERLAP - timedelta(minutes=1), 5)
    assert overlap == [
        "25 02:00 +0200",
        "25 02:30 +0200",
        "25 02:00 +0100",
        "25 02:30 +0100",
        "25 03:00 +0100",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6 *", "never fires"),
        ("0 0 */31 * 6#5", "never fires"),
        ("* * * * * *", "has 6 fields"),
        ("", "has 0 fields"),
        ("61 * * * *", "invalid field minute: '61'"),
        ("* 24 * * *", "invalid field hour: '24'"),
        ("* * 0 * *", "invalid field day-of-month"),
        ("* * * 13 *", "invalid field month"),
        ("* * * * FOO", "invalid field day-of-week: 'FOO'"),
        ("*/0 * * * *", "invalid field minute"),
        ("5-1 * * * *", "invalid field minute"),
        ("@reboot", "unknown nickname"),
        ("\u0661 * * * *", "character"),
        ("* * * * \x00", "character"),
        ("1" * 5000 + " * * * *", "at most 200"),
        ("1,2, * * *", "has 4 fields"),
    ],
)
def test_invalid_expression_error_names_the_problem(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_cron(text)


def test_nicknames_have_their_cron_meaning() -> None:
    after = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    found = {
        name: str(next_after(name, "UTC", after))
        for name in ("@hourly", "@daily", "@weekly", "@monthly")
    }
    assert found == {
        "@hourly": "2026-02-03 05:00:00+00:00",
        "@daily": "2026-02-04 00:00:00+00:00",
        "@weekly": "2026-02-08 00:00:00+00:00",
        "@monthly": "2026-03-01 00:00:00+00:00",
    }
    assert str(next_after("@yearly", "UTC", after)) == "2027-01-01 00:00:00+00:00"


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../../etc/passwd", "America", "europe/berlin", "UTC\n", "x" * 999]
)
def test_unknown_time_zone_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="unknown time zone"):
        parse_zone(name)


@given(
    minute=st.sampled_from(["*", "*/7", "30", "0,45"]),
    hour=st.sampled_from(["*", "*/2", "2", "1-3"]),
    day=st.sampled_from(["*", "*/2", "15", "25,29"]),
    zone=st.sampled_from(
        [BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]
    ),
    hours=st.integers(0, 2 * 366 * 24),
    minutes=st.integers(0, 7 * 24 * 60),
    limit=st.sampled_from([1, 5, 100]),
)
def test_latest_times_are_the_last_of_all_times(
    minute: str, hour: str, day: str, zone: str, hours: int, minutes: int, limit: int
) -> None:
    begin = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    cron, now = f"{minute} {hour} {day} * *", begin + timedelta(minutes=minutes)
    first = next_after(cron, zone, begin)
    assert first is not None and first > begin
    every: list[datetime] = []
    for time in times_after(cron, zone, begin):
        if time > now:
            break
        assert not every or time > every[-1], "times increase"
        every.append(time)
    assert latest_until(cron, zone, first, now, limit) == every[-limit:]
