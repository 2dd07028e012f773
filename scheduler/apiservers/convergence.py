"""Do all kube-apiservers run exactly this EncryptionConfiguration? Pure.

1. Expired identity leases do not count.
2. A scrape is judged by each id that it reports. An id without a live lease is ignored if another id of the same
   scrape has one: an earlier process left it behind.
3. A replica that reports a hash has converged when the hash is the expected one, also when a later reload
   failed: it runs what it reports. With another hash it failed to reload, or has not reloaded yet.
4. A replica that reports no hash (before v1.34) is judged by time: it loaded a changed file later
   than the file was changed here. That is a guess, and its state says so.
5. A live lease without a matching scrape is an unlisted replica.
6. If a lease can't be read, or no lease is live, the number of replicas is not known.
7. The cluster has converged when every replica has.
8. An operator's statement says that all kube-apiservers run this file. It fills every gap in what is known of files and
   of the number of replicas, and overrides no replica that reports another file. It says nothing of KEKs: where
   addresses are given, each known replica must still report that it writes under the targets. Without an address
   nothing reports a KEK, and the statement alone decides.

Not handled: scraping, and reading the statement (`probe.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kube_rewrap.config.encryption.generation import NO_TARGETS
from kube_rewrap.scheduler.apiservers.leases import IdentityLease, Leases
from kube_rewrap.scheduler.apiservers.metrics_parser import KekReport, Report

CLOCK_MARGIN = 5.0
"""Seconds by which a reload must be later than the change, where only times tell: clocks differ."""

KEK_SECONDS = 180.0
"""How long a kube-apiserver writes under a KEK after the plugin named it last (kmsv2/envelope.go)."""

IN_FLIGHT_SECONDS = 60.0
"""How long a request may still write under a KEK that its kube-apiserver has left."""

_NO_ADDRESS = (
    "no address of a kube-apiserver is given: name all of them with --apiserver, or state that all run it with "
    "`rewrap converged --assume-converged REASON`"
)
_NO_KEK = "no address of a kube-apiserver is given (--apiserver): nothing shows under which KEK each of them writes"
_NO_FILE = (
    "reports no EncryptionConfiguration: it runs without "
    "--encryption-provider-config-automatic-reload, or, before v1.34, took no change since it started"
)


class ReplicaState(StrEnum):
    """What is known of one replica. The values are stable: JSON shows them."""

    CONVERGED = "converged"
    BY_TIMESTAMP = "by timestamp"
    OTHER = "other configuration"
    FAILING = "reload failing"
    OTHER_KEK = "other key-encryption key"
    UNREACHABLE = "unreachable"
    NOT_LISTED = "not listed"
    UNKNOWN = "unknown"

    @property
    def is_converged(self) -> bool:
        """Whether this replica runs the expected configuration."""
        return self in {ReplicaState.CONVERGED, ReplicaState.BY_TIMESTAMP}


@dataclass(frozen=True, slots=True)
class Scrape:
    """Result of scraping one address. `fault`: why it has no reports, "" = none; `reached`: the address responded."""

    address: str
    reports: tuple[Report, ...] = ()
    fault: str = ""
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Replica:
    """One kube-apiserver, or a reason why their number or state is unknown.

    `address` is empty if it was not scraped, `id` (`sha256:` and hex) if it reported none, `name` (of its
    lease) if no live lease has that id, `hash` if it reported none. `kek_gap`: why it is not known to write under the
    KEKs in force, "" = it does, or there is none.
    """

    address: str
    id: str
    name: str
    state: ReplicaState
    hash: str
    because: str
    kek_gap: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "address": self.address,
            "id": self.id,
            "name": self.name,
            "state": self.state.value,
            "hash": self.hash or None,
            "because": self.because,
        }


@dataclass(frozen=True, slots=True)
class Convergence:
    """Whether all kube-apiservers run the file, and why. `assumed`: the reason of an operator who stated it.

    `reached`: at least one address responded. `lingering`: why a request that writes under a former KEK may still be
    in flight, "" = none is.
    """

    is_converged: bool
    file_hash: str
    because: str
    replicas: tuple[Replica, ...] = ()
    warnings: tuple[str, ...] = ()
    reached: bool = False
    assumed: str | None = None
    lingering: str = ""

    @property
    def is_contradicted(self) -> bool:
        """Whether a replica reports that it runs another configuration."""
        return any(replica.state in _CONTRADICTS for replica in self.replicas)

    @property
    def blocker(self) -> str:
        """Why a write or a removal that needs convergence must wait, "" = it need not."""
        if self.is_converged:
            return ""
        return f"the kube-apiservers are not known to run this configuration: {self.because}"


_SILENT = Report("")
"""What an address shows that has no series of these metrics."""

_CONTRADICTS = {ReplicaState.OTHER, ReplicaState.FAILING, ReplicaState.OTHER_KEK}


def judge(
    expected: str,
    scrapes: Sequence[Scrape],
    leases: Leases,
    now: float,
    changed_at: float | None,
    *,
    targets: Mapping[str, str] = NO_TARGETS,
) -> Convergence:
    """Return whether every replica runs the file with the hash `expected`, and writes under the KEKs in `targets`.

    `now` and `changed_at` (of the file; None = not known) are in seconds since 1970. `targets` as
    in `Generation.targets`.
    """
    if not scrapes:
        lingering = _NO_KEK if targets else ""
        return Convergence(is_converged=False, file_hash=expected, because=_NO_ADDRESS, lingering=lingering)
    live = {lease.id_hash: lease for lease in leases.found if lease.is_live(now)}
    threshold = None if changed_at is None else changed_at + CLOCK_MARGIN
    wanted = _Wanted(expected, targets, threshold)
    scraped = [replica for scrape in scrapes for replica in _scraped(scrape, wanted, live)]
    replicas = (*scraped, *_not_listed(scraped, live, targets), *_uncounted(leases, live))
    missing = [replica for replica in replicas if not replica.state.is_converged]
    return Convergence(
        is_converged=not missing,
        file_hash=expected,
        because=_waits_for(missing) if missing else _done(wanted, scraped),
        replicas=replicas,
        warnings=tuple(_warnings(expected, scraped, scrapes, live)),
        reached=any(scrape.reached for scrape in scrapes),
        lingering=next(_lingering(scrapes, targets), ""),
    )


def assume(found: Convergence, reason: str, at: str) -> Convergence:
    """Add an operator's statement about the same file, made at a time (ISO 8601), to what a probe found; see rule 8."""
    if found.is_converged or found.is_contradicted:
        return found
    stated = f"an operator stated at {at} that all kube-apiservers run the file: {reason}"
    gaps = [replica for replica in found.replicas if replica.kek_gap]
    if gaps:
        rest = f"; and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        because = f"{gaps[0].kek_gap}{rest}. No statement covers the KEK under which a kube-apiserver writes; {stated}"
        return replace(found, because=because)
    return replace(found, is_converged=True, because=stated, assumed=reason)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What each replica is to report. `threshold`: when a reload is surely later than the change, None = not known."""

    file: str
    targets: Mapping[str, str]
    threshold: float | None


def _scraped(scrape: Scrape, wanted: _Wanted, live: Mapping[str, IdentityLease]) -> Iterable[Replica]:
    if scrape.fault:
        state = ReplicaState.UNKNOWN if scrape.reached else ReplicaState.UNREACHABLE
        because = f"{scrape.address}: {scrape.fault}"
        yield Replica(scrape.address, "", "", state, "", because, because if wanted.targets else "")
        return
    reports = [report for report in scrape.reports if report.id in live] or scrape.reports
    for report in reports or (_SILENT,):
        state, content, because = _of_file(report, wanted)
        behind = _first_behind(report, wanted.targets)
        gap = f"{scrape.address} {behind[1]}" if behind is not None else ""
        because = f"{scrape.address} {because}"
        if behind is not None and state.is_converged:
            state, because = behind[0], gap
        name = live[report.id].name if report.id in live else ""
        yield Replica(scrape.address, report.id, name, state, content, because, gap)


def _first_behind(report: Report, targets: Mapping[str, str]) -> tuple[ReplicaState, str] | None:
    """As `_behind`, for the first of the providers that is behind."""
    found = (_behind(report.keks, provider, target) for provider, target in sorted(targets.items()))
    return next((behind for behind in found if behind is not None), None)


def _of_file(report: Report, wanted: _Wanted) -> tuple[ReplicaState, str, str]:
    """Return a report's state, its hash ("" for none) and the rest of the sentence that begins with the address."""
    if report is _SILENT or not report.shows_file:
        return ReplicaState.UNKNOWN, "", _NO_FILE
    match report.hashes:
        case (content,) if content == wanted.file:
            return ReplicaState.CONVERGED, content, "runs it"
        case (content,) if report.is_failing:
            return ReplicaState.FAILING, content, f"runs {content}, and failed to load its file: its log says why"
        case (content,):
            return ReplicaState.OTHER, content, f"runs {content}"
        case ():
            return _by_time(report, wanted.threshold)
    return ReplicaState.UNKNOWN, "", "reports more than one configuration under one id"


def _lingering(scrapes: Iterable[Scrape], targets: Mapping[str, str]) -> Iterator[str]:
    """Yield which kube-apiservers may have requests in flight that write under a former KEK."""
    for scrape in scrapes:
        for report in scrape.reports:
            for provider, target in sorted(targets.items()):
                behind = _behind(report.keks, provider, target, IN_FLIGHT_SECONDS)
                if behind is not None:
                    yield f"{scrape.address} {behind[1]}"


def _behind(
    keks: Iterable[KekReport], provider: str, target: str, in_flight: float = 0.0
) -> tuple[ReplicaState, str] | None:
    """Return why a replica may still write under another KEK than the target of a KMS provider, None if it does not.

    kube-apiserver writes under a KEK for three minutes after its plugin named it last (kmsv2 `State`): it has left the
    others when the plugin named the target that much later than each of them, or when its newest write was under the
    target. A write under another KEK shows that this was in force then, whenever the plugin named it, if at all: the
    time runs from there. All times are the replica's own, so clocks do not matter. `in_flight` are seconds to add for
    requests.
    """
    mine = [kek for kek in keks if kek.provider == provider]
    ours = next((kek for kek in mine if kek.key_id_hash == target and kek.named), None)
    others = [kek for kek in mine if kek.key_id_hash != target]
    named = max((kek.named for kek in others), default=0.0)
    last = max(named, *(kek.written for kek in others), 0.0)
    if ours is None and not others:
        return ReplicaState.UNKNOWN, f"reports no key id of the KMS provider {provider!r}"
    if ours is None or ours.named < named:
        return ReplicaState.OTHER_KEK, f"has another KEK of the KMS provider {provider!r} than this configuration's"
    left = KEK_SECONDS + in_flight - (ours.named - last)
    if not last or left <= 0 or ours.written > last + in_flight:
        return None
    return (
        ReplicaState.OTHER_KEK,
        f"may write under its former KEK of the KMS provider {provider!r} for another {left:.0f} s",
    )


def _by_time(report: Report, threshold: float | None) -> tuple[ReplicaState, str, str]:
    if report.is_failing:
        return ReplicaState.FAILING, "", "failed to load its file: its log says why"
    if threshold is None or report.succeeded is None:
        return ReplicaState.UNKNOWN, "", "reports no hash (before v1.34), and when the file was changed is not known"
    if report.succeeded > threshold:
        return ReplicaState.BY_TIMESTAMP, "", "reports no hash (before v1.34); it took a change later than this one"
    because = "reports no hash (before v1.34), and took no change that is surely later than this one"
    return ReplicaState.UNKNOWN, "", because


def _not_listed(
    scraped: Sequence[Replica], live: Mapping[str, IdentityLease], targets: Mapping[str, str]
) -> Iterable[Replica]:
    matched = {replica.id for replica in scraped}
    for identity, lease in sorted(live.items(), key=lambda pair: pair[1].name):
        if identity not in matched:
            host = f" on {lease.hostname}" if lease.hostname else ""
            because = (
                f"{lease.name}{host} has a live lease, and no address reported its id; the lease of a removed one "
                f"ends {lease.seconds} s after its last renewal"
            )
            gap = because if targets else ""
            yield Replica("", identity, lease.name, ReplicaState.NOT_LISTED, "", because, gap)


def _uncounted(leases: Leases, live: Mapping[str, IdentityLease]) -> Iterable[Replica]:
    if leases.unreadable:
        because = f"how many kube-apiservers there are is not known: {leases.unreadable[0]}"
        if len(leases.unreadable) > 1:
            because += f"; and {len(leases.unreadable) - 1} more"
    elif not live:
        because = "how many kube-apiservers there are is not known: there is no live identity lease of one"
    else:
        return
    because += ". Once you know that all run it, state it with `rewrap converged --assume-converged REASON`"
    yield Replica("", "", "", ReplicaState.UNKNOWN, "", because)


def _done(wanted: _Wanted, scraped: Sequence[Replica]) -> str:
    count = len({replica.id for replica in scraped})
    guessed = len({replica.id for replica in scraped if replica.state is ReplicaState.BY_TIMESTAMP})
    said = f"all kube-apiservers ({count}) run {wanted.file}"
    if wanted.targets:
        said += f", and write under the present KEK of {', '.join(map(repr, sorted(wanted.targets)))}"
    return f"{said}; {guessed} of them inferred from the times of their reloads" if guessed else said


def _waits_for(missing: Sequence[Replica]) -> str:
    rest = f"; and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{missing[0].because}{rest}"


def _warnings(
    expected: str, scraped: Sequence[Replica], scrapes: Sequence[Scrape], live: Mapping[str, IdentityLease]
) -> Iterable[str]:
    addresses: defaultdict[str, list[str]] = defaultdict(list)
    for replica in scraped:
        if replica.id:
            addresses[replica.id].append(replica.address)
    for identity, ones in addresses.items():
        if len(ones) > 1:
            yield f"{' and '.join(ones)} are the same kube-apiserver, or the addresses are a load balancer's"
        if live and identity not in live:
            yield f"{ones[0]} has no live identity lease in this etcd: check that it belongs to this cluster"
    for scrape in scrapes:
        if any(report.is_failing and report.hashes == (expected,) for report in scrape.reports):
            yield f"{scrape.address} runs it, and failed to load its file since: it may fail to start after a restart"
