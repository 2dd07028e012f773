"""Maintenance windows: the times of day, such as `22:00-06:00` in one time zone, at which the service may write.

They are wall-clock times, daylight saving included: a window includes both occurrences of an hour that the zone repeats
in a night, and is shorter by an hour that the zone skips. It excludes the minute at which it ends; `22:00-06:00`
crosses midnight, `00:00-24:00` is a whole day. Without any window the service may always write. Callers pass the time.
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
_SHAPE = "write HH:MM-HH:MM, such as 22:00-06:00; the end may be 24:00"


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """Minutes of the local day: from `start` (included) to `end` (excluded), across midnight if `end` is less."""

    start: int
    end: int

    def includes(self, minute: int) -> bool:
        """Whether a minute of the day (0 to 1439) is in it."""
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class MaintenanceWindows:
    """All windows of a service, and the time zone of their clock. Without any, the service may always write."""

    daily: tuple[MaintenanceWindow, ...] = ()
    zone: tzinfo = UTC

    def is_open(self, now: datetime) -> bool:
        """Whether the service may write at `now`. Raises ValueError for a time without a zone."""
        if now.tzinfo is None:
            raise ValueError("the time has no time zone")
        local = now.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        return not self.daily or any(window.includes(minute) for window in self.daily)

    def next_opening(self, now: datetime) -> datetime | None:
        """Return the first moment after `now`, in UTC, at which the service may write; None when it may at `now`.

        It asks `is_open` for minute after minute, a few milliseconds for a day, so that the rules of daylight saving
        are applied in one place only.
        """
        if self.is_open(now):
            return None
        moment = now.astimezone(UTC).replace(second=0, microsecond=0)
        while not self.is_open(moment):
            moment += timedelta(minutes=1)
        return moment


def parse_maintenance_windows(texts: Iterable[str], time_zone: str) -> MaintenanceWindows:
    """Return windows from `HH:MM-HH:MM` texts and an IANA zone. Raises SettingsError with every fault.

    Reads the system's file of the zone; UTC needs none.
    """
    read = [_window(text, f"pace.windows[{place}]") for place, text in enumerate(texts)]
    zone = _zone(time_zone)
    faults = [found for found in (*read, zone) if isinstance(found, Fault)]
    if faults or isinstance(zone, Fault):
        raise SettingsError("settings", faults)
    return MaintenanceWindows(tuple(found for found in read if isinstance(found, MaintenanceWindow)), zone)


def _window(text: str, path: str) -> MaintenanceWindow | Fault:
    match = _WINDOW.fullmatch(text)
    if match is None:
        return Fault(path, "is not a maintenance window", _SHAPE)
    from_hour, from_minute, to_hour, to_minute = match.groups()
    start = int(from_hour) * 60 + int(from_minute)
    end = _DAY if to_hour is None else int(to_hour) * 60 + int(to_minute)
    if start == end:
        return Fault(path, "begins when it ends", "write 00:00-24:00 for the whole day, or leave the windows out")
    return MaintenanceWindow(start, end)


def _zone(name: str) -> tzinfo | Fault:
    """Return the zone of that name. UTC, the default, needs no time zone data on the system."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Fault("pace.time_zone", "is no time zone", "write its IANA name, such as Europe/Berlin or UTC")
