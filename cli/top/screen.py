"""Lays out one screen of `rewrap top`: lines of text that fit any width and height. Does no input or output.

The screen has a head, then sections. Each section gets a line for each of its items while there is room, the first
sections first; what is left shows more of each item. Every text from etcd is escaped, and is no markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from kube_rewrap.cli.output import printable
from kube_rewrap.scheduler.top.snapshot import (
    ApiserversRow,
    CampaignRow,
    KekRow,
    KeyRow,
    Snapshot,
    WorkerRow,
)

_MIB = 2**20
_LEAST_NAME = 16
_WIDEST_BAR = 40
_NARROWEST_BAR = 6
_NORMAL = 72
"""Columns from which on the head shows etcd's revision."""

_WIDE = 100
"""Columns from which on an event shows its campaign."""

_LEAST_HEIGHT = 12
"""Lines below which only the head and the campaigns are shown."""

_STATES = {
    "running": "bold green",
    "proving": "bold green",
    "complete": "green",
    "paused": "yellow",
    "waiting": "yellow",
    "incomplete": "bold red",
    "ok": "green",
    "due": "bold yellow",
    "exhausted": "bold red",
    "restored": "bold red",
}
_PROVING = "proving"
_DIM = "dim"
_BAD = "bold red"


@dataclass(frozen=True, slots=True)
class Form:
    """Size of the screen in cells, whether it shows ASCII only, and whether q ends it."""

    width: int
    height: int
    ascii_only: bool = False
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and items of one or more lines: the first line of each is the one to show where room is short."""

    title: str
    items: Sequence[Sequence[Text]]
    counts_rest: bool = True
    """Whether a line says how many items are left out."""


def draw(shown: Snapshot | None, trouble: str, form: Form) -> list[Text]:
    """Return the lines of the screen, at most `form.height` of `form.width` cells.

    `shown` is the last snapshot, None before the first; `trouble`: why etcd can't be read now, "" = it can.
    """
    lines = list(_head(shown, trouble, form))
    if shown is not None:
        every = list(_sections(shown, form))
        some = every if form.height >= _LEAST_HEIGHT else every[:1]
        lines += _fill(some, form.height - len(lines), form.width)
    return [_fitted(line, form) for line in lines[: form.height]]


def bar(share: float, cells: int, style: str, *, ascii_only: bool = False) -> Text:
    """Return a bar of so many cells, of which `share` (0 to 1) is filled: one at least above 0."""
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    filled = min(cells, max(int(share > 0), int(share * cells + 1e-9)))
    return Text.assemble((full * filled, style), (empty * (cells - filled), _DIM))


def share_out(wanted: Sequence[int], room: int) -> list[int]:
    """Return how many of `room` lines each section gets: a line each in turn, up to what it wants."""
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for place, most in enumerate(wanted):
            if room > 0 and given[place] < most:
                given[place] += 1
                room -= 1
    return given


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units; "-" where it is not known."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    if minutes < 100:
        return f"{minutes} min {left:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 100 else f"{hours // 24} days"


# The head.


def _head(shown: Snapshot | None, trouble: str, form: Form) -> Iterator[Text]:
    at = f"{shown.at[11:19]} UTC" if shown is not None else ""
    right = Text.assemble(at, *((("   q", "bold"), (" quits", _DIM)) if form.is_live else ()))
    yield _ends(Text("rewrap top", "bold"), right, form.width)
    if trouble:
        since = f"; what follows is as of {shown.at[11:19]} UTC" if shown is not None else ""
        told = Text(printable(f" etcd does not answer{since}: {trouble}"), "bold white on red")
        yield _padded(told, form.width)
    if shown is None:
        if not trouble:
            yield Text("asking etcd ...", _DIM)
        return
    yield _etcd(shown, form)
    if shown.etcd.trouble:
        yield _safe(f"     {shown.etcd.trouble}", _BAD)
    yield _control(shown)
    if shown.rotation is not None:
        held = f", held: {shown.rotation.held}" if shown.rotation.held else ""
        waits = f", waits: {shown.rotation.waits}" if shown.rotation.waits else ""
        key = f"{shown.rotation.provider} {shown.rotation.key}"
        step = _safe(f"to {key} at the step {shown.rotation.step}")
        yield Text.assemble(("rotation ", "bold"), step, _safe(held, _BAD), _safe(waits))
    for gap in shown.gaps[:2]:
        yield _safe(f"not read: {gap}", "yellow")


def _etcd(shown: Snapshot, form: Form) -> Text:
    etcd = shown.etcd
    share = etcd.size / etcd.quota if etcd.quota else 0.0
    style = _BAD if etcd.trouble else "green"
    slow = "yellow" if etcd.latency_ms >= 100 else ""
    answering = "" if etcd.answering == etcd.endpoints else f" {etcd.answering}/{etcd.endpoints} answer"
    return Text.assemble(
        ("etcd ", "bold"),
        _safe("/".join(etcd.versions)),
        (answering, _BAD),
        "  ",
        bar(share, max(_NARROWEST_BAR, min(20, form.width // 8)), style, ascii_only=form.ascii_only),
        f" {etcd.size / _MIB:,.0f} of {etcd.quota / _MIB:,.0f} MiB",
        ("  read ", _DIM),
        (f"{etcd.latency_ms:,.1f} ms", slow),
        *(() if form.width < _NORMAL else (("  revision ", _DIM), f"{etcd.revision:,}")),
    )


def _control(shown: Snapshot) -> Text:
    if shown.leader is None and shown.owner is None:
        return Text.assemble(("leader ", "bold"), ("none: no scheduler leads, and no run is at work", _DIM))
    if shown.leader is None:
        return Text.assemble(("at work ", "bold"), _safe(shown.owner or ""))
    return Text.assemble(("leader ", "bold"), _safe(shown.leader))


# Sections.


def _sections(shown: Snapshot, form: Form) -> Iterator[Section]:
    width = form.width
    yield Section("Campaigns", list(_campaigns(shown.campaigns, form)) or [[Text("none on record", _DIM)]])
    outdated = [[_safe(one, "yellow")] for one in shown.outdated]
    idle = [] if outdated else [[Text("no process is at work on a batch", _DIM)]]
    yield Section("Workers", [*_workers(shown.workers, form), *outdated] or idle)
    pressing = [one for one in shown.keks if one.writes or one.held]
    others = [one for one in shown.keks if one not in pressing]
    yield Section(
        "Keys (* writes)" if any([row.writes for row in shown.keys] + [row.writes for row in shown.keks]) else "Keys",
        [*_keks(pressing), *_keys(shown.keys, form), *_keks(others)] or [[Text("no write budget on record", _DIM)]],
    )
    yield Section("kube-apiservers", list(_apiservers(shown.apiservers, width)))
    events = _events(shown, width) or [[Text("the audit log is empty", _DIM)]]
    yield Section("Last events", events, counts_rest=False)


def _campaigns(rows: Sequence[CampaignRow], form: Form) -> Iterator[list[Text]]:
    counts = [_count(row) for row in rows]
    widest, named = max(map(len, counts), default=0), max((len(printable(row.id)) for row in rows), default=0)
    ends = [_pace(row) for row in rows]
    last = max(map(len, ends), default=0)
    # Where they do not fit beside name, state, bar and counts, rate and time left are an item of their own.
    is_wide = form.width >= min(named, 24) + widest + last + _NARROWEST_BAR + 22
    for row, count, pace in zip(rows, counts, ends, strict=True):
        head = Text.assemble(_cut(_safe(row.id), min(named, 24)), " ", _safe(row.state.ljust(10), _style(row.state)))
        if row.done is None or row.planned is None:
            yield [Text.assemble(head, " ", (_minute(row.at), _DIM), "  ", _safe(row.because, _DIM))]
            continue
        share = _done(row, row.done, row.planned)
        tail = f" {int(share * 100):3} % {count.rjust(widest)}" + (f"  {pace.ljust(last)}" if is_wide and last else "")
        first = [_with_bar(head, share, tail, _style(row.state), form)]
        if not is_wide and pace:
            yield first
            first = []
        proven = [f"{row.proven:,} objects read for the proof"] if row.proven is not None else []
        figures = [
            *proven,
            f"{row.batches_done or 0:,} of {row.batches or 0:,} batches",
            f"{row.conflicts:,} conflicts",
            f"{row.quarantined:,} in quarantine",
        ]
        told = ", ".join([pace, *figures] if pace and not is_wide else figures)
        yield [
            *first,
            _safe(f"  {told}", _BAD if row.quarantined else ""),
            _safe(f"  {row.because}", "yellow" if row.state == "paused" else _DIM),
            _safe(f"  {row.scope}", _DIM),
        ]


def _count(row: CampaignRow) -> str:
    if row.state == _PROVING:
        return f"{row.parts_done or 0:,}/{row.parts:,} parts" if row.parts is not None else "planning"
    return f"{row.done:,}/{row.planned:,}" if row.done is not None else ""


def _done(row: CampaignRow, done: int, planned: int) -> float:
    """Return the share of the proof that is done while a campaign is proven, else that of its objects; 0 to 1."""
    if row.state == _PROVING:
        return row.proven_share or 0.0
    return min(1.0, done / planned) if planned else 1.0


def _pace(row: CampaignRow) -> str:
    if row.rate is None:
        return ""
    return f"{row.rate:,.0f}/s" + (f", {duration(row.seconds_left)} left" if row.seconds_left is not None else "")


def _workers(rows: Sequence[WorkerRow], form: Form) -> Iterator[list[Text]]:
    named = min(max((len(printable(row.worker)) for row in rows), default=0), form.width // 3)
    batches = max((len(f"{row.batch}") for row in rows), default=0)
    counts = [f"{row.done:,} read" if row.job == "part" else f"{row.done:,}/{row.planned:,}" for row in rows]
    widest = max(map(len, counts), default=0)
    for row, count in zip(rows, counts, strict=True):
        where = f"{row.resource} {row.namespaces}".rstrip()
        name = _cut(_safe(row.worker), named)
        room = max(8, form.width - named - batches - widest - _NARROWEST_BAR - 12)
        head = Text.assemble(name, (f"  {row.job} {row.batch:>{batches}} ", _DIM), _cut(_safe(where), min(room, 30)))
        share = min(1.0, row.done / row.planned) if row.planned else 0.0
        yield [_with_bar(head, None if row.job == "part" else share, f" {count.rjust(widest)}", "cyan", form)]


def _keks(rows: Sequence[KekRow]) -> Iterator[list[Text]]:
    named = max((len(printable(row.provider)) for row in rows), default=0)
    for row in rows:
        head = Text.assemble(("* " if row.writes else "  ", "bold"), "kms ", _cut(_safe(row.provider), min(named, 24)))
        since = f" since {row.since[:10]}" if row.since else ""
        state = Text.assemble(("held: ", _BAD), _safe(row.held)) if row.held else Text("no limit", "green")
        yield [Text.assemble(head, f"  KEK {row.fingerprint}{since}  ", state)]


def _keys(rows: Sequence[KeyRow], form: Form) -> Iterator[list[Text]]:
    names = [f"{row.provider} {', '.join(row.names) or row.fingerprint}" for row in rows]
    counts = [f"{row.used:,}/{row.limit:,}" if row.limit is not None else f"{row.used:,}" for row in rows]
    shares = [f"{100 * row.used / row.limit:5.1f} %" if row.limit else " " * 7 for row in rows]
    states = [printable(row.state) for row in rows]
    dates = [f"  until {row.reached_on}" if row.reached_on else "" for row in rows]
    widest, longest, last = (max(map(len, column), default=0) for column in (counts, states, dates))
    room = form.width - widest - longest - last - _NARROWEST_BAR - 14
    more: list[list[Text]] = [[] for _ in rows]
    if room < _LEAST_NAME:  # then the counts, which the shares sum up, go to the next line
        more = [[_safe(f"  {count} writes", _DIM)] for count in counts]
        counts, widest, room = [""] * len(rows), 0, room + widest
    named = max(10, min(room, max((len(printable(name)) for name in names), default=0)))
    columns = zip(rows, names, shares, counts, states, dates, more, strict=True)
    for row, name, share, count, state, date, rest in columns:
        head = Text.assemble(("* " if row.writes else "  ", "bold"), _cut(_safe(name), named))
        style = _style(row.state)
        tail = Text.assemble(f" {share} {count.rjust(widest)}  ", (state.ljust(longest), style), date.ljust(last))
        yield [_with_bar(head, min(1.0, row.used / row.limit) if row.limit else None, tail, style, form), *rest]


def _apiservers(row: ApiserversRow, width: int) -> Iterator[list[Text]]:
    verdict = {True: ("converged", "green"), False: ("not converged", _BAD), None: ("", "")}[row.converged]
    because = _safe(row.because, _DIM if row.converged is not False else "")
    yield [Text.assemble(verdict, ": " if row.converged is not None else "", because)]
    for one in row.replicas:
        name = " ".join(part for part in (one.address, one.name) if part)
        style = "green" if one.is_converged else _BAD
        state, because = _safe(one.state, style), _safe(one.because.removeprefix(f"{one.address} "), _DIM)
        yield [Text.assemble(_cut(_safe(name), width // 2), "  ", state, "  ", because)]


def _events(shown: Snapshot, width: int) -> list[list[Text]]:
    times = [_moment(row.at, shown.at) for row in shown.events]
    longest = max(map(len, times), default=0)
    named = min(max((len(printable(row.event)) for row in shown.events), default=0), width // 3)
    campaigns = min(max((len(printable(row.campaign)) for row in shown.events), default=0), 24)
    lines = []
    for row, at in zip(shown.events, times, strict=True):
        campaign = Text.assemble(_cut(_safe(row.campaign, "cyan"), campaigns), "  ") if width >= _WIDE else Text()
        event = Text.assemble((at.ljust(longest), _DIM), "  ", _cut(_safe(row.event), named), "  ")
        lines.append([Text.assemble(event, campaign, _safe(row.because, _DIM))])
    return lines


# How lines fit.


def _fill(sections: Sequence[Section], room: int, width: int) -> list[Text]:
    """Return the lines of the sections, with their titles; of each as many as it gets."""
    room -= len(sections)
    firsts = [len(section.items) for section in sections]
    # First a line for each item, but no more than a fair part; then more of each item.
    given = share_out(firsts, room)
    more = [sum(len(item) - 1 for item in section.items) for section in sections]
    extra = share_out(more, room - sum(given))
    lines: list[Text] = []
    for section, count, others in zip(sections, given, extra, strict=True):
        lines.append(_title(section.title, width))
        lines += _items(section, count, others)
    return lines


def _items(section: Section, count: int, others: int) -> Iterator[Text]:
    left = len(section.items) - count
    shown = section.items[: count - 1] if left and section.counts_rest and count > 1 else section.items[:count]
    for item in shown:
        yield item[0]
        yield from item[1 : 1 + others]
        others -= min(others, len(item) - 1)
    if len(shown) < count:
        yield Text(f"... {left + 1:,} more", _DIM)


def _title(title: str, width: int) -> Text:
    return Text.assemble((f"{title} ", "bold cyan"), ("─" * max(0, width - len(title) - 1), _DIM))


def _with_bar(head: Text, share: float | None, tail: str | Text, style: str, form: Form) -> Text:
    """Return the head, a bar as wide as fits (none for None), and the tail at the right edge of it."""
    tail = Text(tail) if isinstance(tail, str) else tail
    room = form.width - head.cell_len - tail.cell_len - 1
    cells = min(_WIDEST_BAR, room)
    if cells < _NARROWEST_BAR:
        head = head.copy()
        head.truncate(max(1, head.cell_len + room), overflow="ellipsis")
        return Text.assemble(head, " ", tail)
    drawn = Text(" " * cells) if share is None else bar(share, cells, style or "green", ascii_only=form.ascii_only)
    return Text.assemble(head, " ", drawn, tail)


def _ends(left: Text, right: Text, width: int) -> Text:
    return Text.assemble(left, " " * max(1, width - left.cell_len - right.cell_len), right)


def _padded(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis", pad=True)
    return line


def _cut(text: Text, cells: int) -> Text:
    """Return the text in exactly so many cells."""
    text.truncate(cells, overflow="ellipsis", pad=True)
    return text


def _fitted(line: Text, form: Form) -> Text:
    line.truncate(form.width, overflow="ellipsis")
    if form.ascii_only:
        plain = line.plain.replace("─", "-").replace("…", "~")
        line.plain = plain.encode("ascii", "replace").decode()
    line.no_wrap = True
    return line


def _safe(text: str, style: str = "") -> Text:
    """Return a text of etcd's, escaped: never parsed as markup, without characters that control a terminal."""
    return Text(printable(text), style)


def _style(state: str) -> str:
    return _STATES.get(state, "")


def _moment(at: str, now: str) -> str:
    """Return the time of day of an ISO time of the same day as `now`, else as `_minute` does."""
    return printable(at[11:19]) if at[:10] == now[:10] else _minute(at)


def _minute(at: str) -> str:
    """Return the date and the minute of an ISO time; the text itself, cut, where it is none."""
    return printable(at[5:16].replace("T", " "))
