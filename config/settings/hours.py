"""When the service may write: times of day such as `22:00-06:00` in one time zone.

Wall-clock times are meant, daylight saving included: an hour that comes twice counts twice, and one that is skipped
does not come. The minute that a window ends with is outside; `22:00-06:00` crosses midnight, `00:00-24:00` is a whole
day. No windows at all: always. The clock is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kube_rewrap.config.errors import Fault, SettingsError

_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_DAY = 24 * 60
_SHAPE = "write HH:MM-HH:MM, such as 22:00-06:00; 24:00 may stand at the end"


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the local day: from `start` (included) to `end` (excluded); past midnight if `end` comes first."""

    start: int
    end: int

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day (0 to 1439) lies in it."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class Hours:
    """Windows and the zone in which they are meant."""

    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC


def parse_hours(texts: Iterable[str], time_zone: str) -> Hours:
    """Read windows and an IANA zone. Raises SettingsError with every fault; reads the zone from its file."""
    read = [_window(text, f"pace.windows[{place}]") for place, text in enumerate(texts)]
    zone = _zone(time_zone)
    faults = [found for found in (*read, zone) if isinstance(found, Fault)]
    if faults or isinstance(zone, Fault):
        raise SettingsError("settings", faults)
    return Hours(tuple(found for found in read if isinstance(found, Window)), zone)


def is_open(hours: Hours, now: datetime) -> bool:
    """Whether writing is allowed at `now`, which has a time zone (any)."""
    local = _aware(now).astimezone(hours.zone)
    minute = local.hour * 60 + local.minute
    return not hours.windows or any(window.holds(minute) for window in hours.windows)


def next_opening(hours: Hours, now: datetime) -> datetime | None:
    """Return the first moment after `now`, in UTC, at which writing is allowed; None when it is allowed at `now`.

    It tries minute by minute, a few milliseconds for a day: no rule about skipped hours is stated twice.
    """
    if is_open(hours, now):
        return None
    moment = now.astimezone(UTC).replace(second=0, microsecond=0)
    while not is_open(hours, moment):
        moment += timedelta(minutes=1)
    return moment


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is no moment")
    return moment


def _window(text: str, path: str) -> Window | Fault:
    match = _WINDOW.fullmatch(text)
    if match is None:
        return Fault(path, "is not a window of time", _SHAPE)
    from_hour, from_minute, to_hour, to_minute = match.groups()
    start = int(from_hour) * 60 + int(from_minute)
    end = _DAY if to_hour is None else int(to_hour) * 60 + int(to_minute)
    if start == end:
        return Fault(path, "begins when it ends", "write 00:00-24:00 for the whole day, or leave the windows out")
    return Window(start, end)


def _zone(name: str) -> tzinfo | Fault:
    """Return the zone of that name. UTC, the default, needs no data of the system's."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Fault("pace.time_zone", "is no time zone", "write its IANA name, such as Europe/Berlin or UTC")
