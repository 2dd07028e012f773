"""Maintenance windows: which texts are read and which refused, and when one is open by the clocks of a zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.flags import WINDOW
from kube_rewrap.config.settings.maintenance import (
    MaintenanceWindow,
    MaintenanceWindows,
    parse_maintenance_windows,
)
from kube_rewrap.config.settings.rules import check_settings
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)

MINUTES = st.integers(0, 24 * 60 - 1)
WINDOWS = st.builds(MaintenanceWindow, MINUTES, st.integers(0, 24 * 60)).filter(lambda one: one.start != one.end)
ZONES = st.sampled_from([
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata",
    "America/Sao_Paulo", "Africa/Casablanca",
])  # fmt: skip
MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


def text(window: MaintenanceWindow) -> str:
    return "-".join(f"{minute // 60:02d}:{minute % 60:02d}" for minute in (window.start, window.end))


def faults(texts: list[str], zone: str = "UTC") -> tuple[Fault, ...]:
    with pytest.raises(SettingsError) as caught:
        parse_maintenance_windows(texts, zone)
    return caught.value.faults


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("given_text", "window"),
    [
        pytest.param("12:00-13:30", MaintenanceWindow(720, 810), id="within a day"),
        pytest.param("22:00-06:00", MaintenanceWindow(1320, 360), id="across midnight"),
        pytest.param("00:00-24:00", MaintenanceWindow(0, 1440), id="the whole day"),
        pytest.param("22:00-24:00", MaintenanceWindow(1320, 1440), id="until midnight"),
        pytest.param("22:00-00:00", MaintenanceWindow(1320, 0), id="until midnight, the other way"),
        pytest.param("23:59-24:00", MaintenanceWindow(1439, 1440), id="the last minute"),
    ],
)
def test_a_window_is_read(given_text: str, window: MaintenanceWindow) -> None:
    assert parse_maintenance_windows([given_text], "UTC") == MaintenanceWindows((window,), UTC)


@given(st.lists(WINDOWS, max_size=4), ZONES)
def test_a_written_window_is_read_back(windows: list[MaintenanceWindow], zone: str) -> None:
    assert parse_maintenance_windows(map(text, windows), zone).daily == tuple(windows)


@pytest.mark.parametrize(
    "wrong",
    [
        "", "22:00", "22:00-", "22-06", "22:00 - 06:00", "24:00-06:00", "22:00-24:01", "25:00-06:00", "22:60-23:00",
        "6:00-7:00", "22:00-06:00-07:00", "22:00-06:00\n", "２２:00-06:00", "-1:00-06:00",
    ],
)  # fmt: skip
def test_a_text_that_is_no_window_is_refused_by_its_place(wrong: str) -> None:
    expected = Fault(
        "pace.windows[1]",
        "is not a maintenance window",
        "write HH:MM-HH:MM, such as 22:00-06:00; the end may be 24:00",
    )
    assert faults(["12:00-13:00", wrong]) == (expected,)


@pytest.mark.parametrize("same", ["00:00-00:00", "06:00-06:00"])
def test_a_window_that_begins_when_it_ends_is_refused(same: str) -> None:
    (fault,) = faults([same])
    assert (fault.path, fault.message) == ("pace.windows[0]", "begins when it ends")
    assert "00:00-24:00" in fault.remedy


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "America", "../UTC", "/etc/passwd", "zone.tab", "a\0b", "\ud800", "x" * 5000, "utc "]
)
def test_a_name_of_no_zone_is_refused(zone: str) -> None:
    (fault,) = faults([], zone)
    assert (fault.path, fault.message) == ("pace.time_zone", "is no time zone")


@given(st.lists(st.text(max_size=12), max_size=3), st.text(max_size=12))
def test_any_text_is_read_or_refused(texts: list[str], zone: str) -> None:
    """Any other exception fails the test."""
    try:
        parse_maintenance_windows(texts, zone)
    except SettingsError as error:
        refused = error
    else:
        return
    assert refused.faults
    assert all(fault.message and fault.remedy for fault in refused.faults)


def test_every_fault_is_reported_at_once() -> None:
    assert [fault.path for fault in faults(["x", "12:00-13:00", "y"], "z")] == [
        "pace.windows[0]",
        "pace.windows[2]",
        "pace.time_zone",
    ]


def test_settings_with_bad_windows_are_refused_among_all_other_faults() -> None:
    settings = Settings().with_values("pace", {"windows": ["9-17"], "time_zone": "Mars", "rate": -1.0}, "test")
    with pytest.raises(SettingsError) as caught:
        check_settings(settings)
    assert [fault.path for fault in caught.value.faults] == ["pace.rate", "pace.windows[0]", "pace.time_zone"]


def test_windows_and_zone_come_from_flags() -> None:
    given_flags = {"--window": "22:00-06:00, 12:00-13:00", "--time-zone": "Europe/Berlin"}
    pace = settings_from(WINDOW, given_flags, {}).pace
    assert parse_maintenance_windows(pace.windows, pace.time_zone) == MaintenanceWindows(
        (MaintenanceWindow(1320, 360), MaintenanceWindow(720, 780)), BERLIN
    )


# --------------------------------------------------------------------------------------------------------------- open


@pytest.mark.parametrize(
    ("windows", "clock", "expected"),
    [
        pytest.param([], time(3), True, id="no windows => always"),
        pytest.param(["12:00-13:00"], time(11, 59, 59, 999999), False, id="right before it begins"),
        pytest.param(["12:00-13:00"], time(12), True, id="its first moment"),
        pytest.param(["12:00-13:00"], time(12, 59, 59, 999999), True, id="its last moment"),
        pytest.param(["12:00-13:00"], time(13), False, id="when it ends"),
        pytest.param(["22:00-06:00"], time(23), True, id="before midnight"),
        pytest.param(["22:00-06:00"], time(0), True, id="at midnight"),
        pytest.param(["22:00-06:00"], time(5, 59), True, id="after midnight"),
        pytest.param(["22:00-06:00"], time(6), False, id="in the morning"),
        pytest.param(["22:00-24:00"], time(0), False, id="24:00 ends at midnight"),
        pytest.param(["00:00-24:00"], time(23, 59, 59), True, id="the whole day"),
        pytest.param(["01:00-02:00", "12:00-13:00"], time(12, 30), True, id="one of two"),
    ],
)
def test_open_or_not(windows: list[str], clock: time, *, expected: bool) -> None:
    moment = datetime.combine(date(2024, 5, 1), clock, BERLIN)
    assert parse_maintenance_windows(windows, "Europe/Berlin").is_open(moment) is expected
    assert parse_maintenance_windows(windows, "Europe/Berlin").is_open(moment.astimezone(UTC)) is expected


def test_a_time_without_a_zone_is_a_bug_of_the_caller() -> None:
    naive = datetime(2024, 5, 1)  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="has no time zone"):
        MaintenanceWindows().is_open(naive)
    with pytest.raises(ValueError, match="has no time zone"):
        MaintenanceWindows().next_opening(naive)


def open_minutes(window: str, day: date) -> int:
    """How long a window is open in Berlin between two noons."""
    windows = parse_maintenance_windows([window], "Europe/Berlin")
    start = datetime.combine(day, time(12), BERLIN).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=1), time(12), BERLIN).astimezone(UTC)
    return sum(windows.is_open(start + MINUTE * number) for number in range((end - start) // MINUTE))


@pytest.mark.parametrize(
    ("day", "window", "minutes"),
    [
        pytest.param(date(2024, 5, 1), "22:00-06:00", 8 * 60, id="an ordinary night"),
        pytest.param(date(2024, 3, 30), "22:00-06:00", 7 * 60, id="a night that loses an hour"),
        pytest.param(date(2024, 10, 26), "22:00-06:00", 9 * 60, id="a night that gains an hour"),
        pytest.param(date(2024, 3, 30), "02:15-02:45", 0, id="a window inside the hour that is skipped"),
        pytest.param(date(2024, 3, 30), "02:30-04:00", 60, id="a window that begins in it"),
        pytest.param(date(2024, 10, 26), "02:15-02:45", 60, id="a window inside the hour that comes twice"),
    ],
)
def test_wall_clock_time_is_meant_when_clocks_change(day: date, window: str, minutes: int) -> None:
    assert open_minutes(window, day) == minutes


# --------------------------------------------------------------------------------------------------------------- next


@pytest.mark.parametrize(
    ("windows", "now", "expected"),
    [
        pytest.param([], "2024-05-01T03:00", None, id="always open => nothing to wait for"),
        pytest.param(["12:00-13:00"], "2024-05-01T12:30", None, id="open now => nothing to wait for"),
        pytest.param(["12:00-13:00"], "2024-05-01T11:59:59.5", "2024-05-01T12:00+02:00", id="today"),
        pytest.param(["12:00-13:00"], "2024-05-01T13:00", "2024-05-02T12:00+02:00", id="tomorrow"),
        pytest.param(["12:00-13:00", "20:00-21:00"], "2024-05-01T13:00", "2024-05-01T20:00+02:00", id="the nearer"),
        pytest.param(["22:00-06:00"], "2024-12-31T07:00", "2024-12-31T22:00+01:00", id="on the last day of a year"),
        pytest.param(["02:30-04:00"], "2024-03-31T01:00", "2024-03-31T03:00+02:00", id="it begins in a skipped hour"),
        pytest.param(["02:15-02:45"], "2024-03-30T12:00", "2024-04-01T02:15+02:00", id="it is skipped for a day"),
        pytest.param(["02:15-02:45"], "2024-10-27T02:50+02:00", "2024-10-27T02:15+01:00", id="it comes again"),
    ],
)
def test_the_next_opening(windows: list[str], now: str, expected: str | None) -> None:
    moment = datetime.fromisoformat(now)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=BERLIN)
    opening = parse_maintenance_windows(windows, "Europe/Berlin").next_opening(moment)
    assert opening == (datetime.fromisoformat(expected).astimezone(UTC) if expected else None)


def test_a_whole_day_that_a_zone_skips_is_waited_through() -> None:
    windows = parse_maintenance_windows(["12:00-12:01"], "Pacific/Apia")
    now = datetime(2011, 12, 29, 13, 0, tzinfo=ZoneInfo("Pacific/Apia"))
    assert windows.next_opening(now) == datetime(2011, 12, 31, 12, 0, tzinfo=ZoneInfo("Pacific/Apia")).astimezone(UTC)


@given(st.lists(WINDOWS, min_size=1, max_size=3), ZONES, MOMENTS)
@example([MaintenanceWindow(120, 121)], "Europe/Berlin", datetime(2024, 3, 31, 0, 30, tzinfo=UTC))
def test_the_next_opening_is_the_first_open_moment(daily: list[MaintenanceWindow], zone: str, now: datetime) -> None:
    windows = parse_maintenance_windows(map(text, daily), zone)
    opening = windows.next_opening(now)
    if opening is None:
        assert windows.is_open(now)
        return
    assert not windows.is_open(now)
    assert windows.is_open(opening)
    assert now < opening
    assert not windows.is_open(opening - timedelta(microseconds=1))
    step = (opening - now) / 50
    assert not any(windows.is_open(now + step * number) for number in range(50))
