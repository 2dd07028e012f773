"""Parses what a kube-apiserver's /metrics report of the EncryptionConfiguration that it runs, and of its KEKs. Pure.

kubernetes/apiserver pkg/server/options/encryptionconfig/metrics/metrics.go, and for KMS
pkg/storage/value/encrypt/envelope/metrics/metrics.go. The parser identifies series by their labels, not by their order:

- `…_last_config_info{apiserver_id_hash, hash} 1`: the file that it runs, by the hash of its bytes; v1.34
  and later. A series with another value than 1 is ignored.
- `…_automatic_reload_last_timestamp_seconds{apiserver_id_hash, status}`: when it last took a changed file,
  and when it last could not. Before the first change after its start there is none.
- `apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds{apiserver_id_hash, key_id_hash,
  provider_name}`: when a KMS v2 plugin last named a KEK in its Status.
- `apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds{…, transformation_type="to_storage"}`: when the
  kube-apiserver last wrote under a KEK. Absent until the first write.

Not handled: any other metric, and what OpenMetrics adds to the format.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

_INFO = "apiserver_encryption_config_controller_last_config_info"
_RELOADED = "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds"
_NAMED = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
_USED = "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds"

PREFIXES = tuple(f"{name}{{".encode() for name in (_INFO, _RELOADED, _NAMED, _USED))
"""The prefixes of the lines to keep: a few of some twenty thousand."""

_SERIES = re.compile(r"(\w+)\{(.*)\}[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*\r?")
_LABEL = re.compile(r'[ \t]*(\w+)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class ReportError(ValueError):
    """A line is malformed. The message quotes nothing of the line but a number."""


@dataclass(frozen=True, slots=True)
class KekReport:
    """When a kube-apiserver last saw, or used, one KEK of one KMS v2 provider; seconds since 1970 by its clock.

    `named`: by the plugin's Status; `written`: the last write under it. 0 = never since its start.
    """

    provider: str
    key_id_hash: str
    named: float = 0.0
    written: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was reported under one `apiserver_id_hash` ("" where the kube-apiserver has no identity).

    `hashes`: of the file that it runs, none before v1.34; more than one contradict each other. `succeeded` and
    `failed`: its last reloads, in seconds since 1970 by its clock, None = none since its start.
    """

    id: str
    hashes: tuple[str, ...] = ()
    succeeded: float | None = None
    failed: float | None = None
    keks: tuple[KekReport, ...] = ()

    @property
    def shows_file(self) -> bool:
        """Whether it says more than its KEKs, which it reports without automatic reload, too."""
        return bool(self.hashes or self.succeeded or self.failed or not self.keks)

    @property
    def is_failing(self) -> bool:
        """Whether it could not load the file that it saw last."""
        return self.failed is not None and self.failed > (self.succeeded or 0.0)


@dataclass(slots=True)
class _Gathered:
    hashes: list[str] = field(default_factory=list)
    reloads: dict[str, float] = field(default_factory=dict)
    named: dict[tuple[str, str], float] = field(default_factory=dict)
    written: dict[tuple[str, str], float] = field(default_factory=dict)

    def keks(self) -> tuple[KekReport, ...]:
        return tuple(
            KekReport(*one, self.named.get(one, 0.0), self.written.get(one, 0.0))
            for one in sorted({*self.named, *self.written})
        )


def parse_reports(lines: Iterable[bytes]) -> tuple[Report, ...]:
    """Parse lines in Prometheus' text format; returns a report for each id, sorted by id.

    Ignores lines of other metrics. Raises ReportError for a malformed line of these.
    """
    gathered: defaultdict[str, _Gathered] = defaultdict(_Gathered)
    for line in lines:
        if not line.startswith(PREFIXES):
            continue
        name, labels, value = _series(line)
        one = gathered[_hash_of(labels, "apiserver_id_hash", may_be_empty=True)]
        if name == _RELOADED:
            status = labels.get("status", "")
            one.reloads[status] = max(value, one.reloads.get(status, 0.0))
        elif name == _INFO and value == 1:
            one.hashes.append(_hash_of(labels, "hash"))
        elif name == _NAMED:
            _keep_latest(one.named, labels, value)
        elif name == _USED and labels.get("transformation_type") == "to_storage":
            _keep_latest(one.written, labels, value)
    return tuple(
        Report(
            identity,
            tuple(sorted({*one.hashes})),
            one.reloads.get("success") or None,
            one.reloads.get("failure"),
            one.keks(),
        )
        for identity, one in sorted(gathered.items())
        if one.hashes or one.reloads or one.named or one.written
    )


def _keep_latest(times: dict[tuple[str, str], float], labels: dict[str, str], value: float) -> None:
    kek = labels.get("provider_name", ""), _hash_of(labels, "key_id_hash")
    times[kek] = max(value, times.get(kek, 0.0))


def _series(line: bytes) -> tuple[str, dict[str, str], float]:
    match, value = None, None
    with suppress(ValueError):  # of the text or the number; it would quote the line
        match = _SERIES.fullmatch(line.decode())
        value = float(match[3]) if match else None
    if match is None or value is None:
        raise ReportError(f"a line of {_kind(line)} is not in Prometheus' text format")
    name, inner, number = match.groups()
    if not math.isfinite(value):
        raise ReportError(f"{name} is {number}")
    return name, _labels(name, inner), value


def _labels(name: str, inner: str) -> dict[str, str]:
    labels, place = dict[str, str](), 0
    while place < len(inner):
        match = _LABEL.match(inner, place)
        if match is None or match[1] in labels:
            raise ReportError(f"the labels of {name} can't be read")
        labels[match[1]] = _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], match[2])
        place = match.end()
    return labels


def _hash_of(labels: dict[str, str], name: str, *, may_be_empty: bool = False) -> str:
    value = labels.get(name, "")
    if _HASH.fullmatch(value) or (may_be_empty and name in labels and not value):
        return value
    raise ReportError(f"the label {name} is not a hash")


def _kind(line: bytes) -> str:
    return line.partition(b"{")[0].decode()
