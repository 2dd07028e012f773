"""Do all kube-apiservers run exactly this EncryptionConfiguration? Pure.

1. Identity leases that have expired do not count.
2. An answer is judged by each id that it reports. An id that no live lease has is left out where another
   one of the same answer has one: it is what an earlier process left behind.
3. A replica that reports a hash has converged when it is the expected one, also when a later reload
   failed: it runs what it reports. With another hash it fails to reload, or has not come to it yet.
4. A replica that reports no hash (before v1.34) is judged by time: it has loaded a changed file, later
   than the file was changed here. That is a guess, and is called so.
5. A live lease that no answer speaks for is a replica that nobody asked.
6. Leases that can't be read, or none at all: nobody knows how many replicas there are.
7. Converged means: each of them, and all of them.

Not handled: who asks, and what an operator's word is worth (`converge.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kube_rewrap.scheduler.apiservers.leases import IdentityLease, Leases
from kube_rewrap.scheduler.apiservers.metrics_parser import Report

CLOCK_MARGIN = 5.0
"""Seconds by which a reload must be later than the change, where only times tell: clocks differ."""

_NO_ADDRESS = (
    "no address of a kube-apiserver is given: name all of them with --apiserver, or give your word with "
    "--assume-converged"
)


class ReplicaState(StrEnum):
    """What is known of one replica. The values are stable: they stand in JSON."""

    CONVERGED = "converged"
    BY_TIMESTAMP = "by timestamp"
    OTHER = "other configuration"
    FAILING = "reload failing"
    UNREACHABLE = "unreachable"
    NOT_LISTED = "not listed"
    UNKNOWN = "unknown"

    @property
    def is_converged(self) -> bool:
        """Whether nothing has to be waited for."""
        return self in {ReplicaState.CONVERGED, ReplicaState.BY_TIMESTAMP}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one address. `fault`: why its reports are not to be had; `reached`: something answered."""

    address: str
    reports: tuple[Report, ...] = ()
    fault: str = ""
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Replica:
    """One kube-apiserver, or what is not known of one.

    `address` is empty where none was asked, `id` (`sha256:` and hex) where none was reported, `name` (of its
    lease) where no lease has that id, `hash` where it reported none.
    """

    address: str
    id: str
    name: str
    state: ReplicaState
    hash: str
    because: str

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
class Verdict:
    """The answer. `assumed` is the reason that an operator gave where it rests on their word alone.

    `reached`: at least one address answered, whatever it said.
    """

    converged: bool
    generation: str
    because: str
    replicas: tuple[Replica, ...] = ()
    warnings: tuple[str, ...] = ()
    reached: bool = False
    assumed: str | None = None

    @property
    def is_contradicted(self) -> bool:
        """Whether a replica says itself that it runs another configuration."""
        return any(replica.state in {ReplicaState.OTHER, ReplicaState.FAILING} for replica in self.replicas)


def judge(
    expected: str,
    answers: Sequence[Answer],
    leases: Leases,
    now: float,
    changed_at: float | None,
    *,
    margin: float = CLOCK_MARGIN,
) -> Verdict:
    """Return whether every replica runs the configuration with the hash `expected`.

    `now` and `changed_at` (of the file; None = not known) are in seconds since 1970, `margin` in seconds.
    """
    if not answers:
        return Verdict(converged=False, generation=expected, because=_NO_ADDRESS)
    live = {lease.id_hash: lease for lease in leases.found if lease.is_live(now)}
    threshold = None if changed_at is None else changed_at + margin
    asked = [replica for answer in answers for replica in _asked(answer, expected, live, threshold)]
    replicas = (*asked, *_not_listed(asked, live), *_uncounted(leases, live))
    missing = [replica for replica in replicas if not replica.state.is_converged]
    return Verdict(
        converged=not missing,
        generation=expected,
        because=_waits_for(missing) if missing else _done(expected, asked),
        replicas=replicas,
        warnings=tuple(_warnings(expected, asked, answers, live)),
        reached=any(answer.reached for answer in answers),
    )


def assume(expected: str, reason: str, at: str, seen: Verdict | None = None) -> Verdict:
    """Return the verdict that rests on an operator's word, given at a time (ISO 8601), with what was seen besides."""
    because = f"an operator said at {at} that all kube-apiservers run it: {reason}"
    known = seen or Verdict(converged=True, generation=expected, because=because)
    return replace(known, converged=True, because=because, assumed=reason)


def _asked(
    answer: Answer, expected: str, live: Mapping[str, IdentityLease], threshold: float | None
) -> Iterable[Replica]:
    if answer.fault:
        state = ReplicaState.UNKNOWN if answer.reached else ReplicaState.UNREACHABLE
        yield Replica(answer.address, "", "", state, "", f"{answer.address}: {answer.fault}")
        return
    if not answer.reports:
        because = (
            f"{answer.address} reports no EncryptionConfiguration: it runs without "
            "--encryption-provider-config-automatic-reload, or, before v1.34, took no change since it started"
        )
        yield Replica(answer.address, "", "", ReplicaState.UNKNOWN, "", because)
        return
    reports = [report for report in answer.reports if report.id in live] or answer.reports
    for report in reports:
        state, content, because = _judged(report, expected, threshold)
        name = live[report.id].name if report.id in live else ""
        yield Replica(answer.address, report.id, name, state, content, f"{answer.address} {because}")


def _judged(report: Report, expected: str, threshold: float | None) -> tuple[ReplicaState, str, str]:
    """Return a report's state, its hash ("" for none) and the rest of the sentence that begins with the address."""
    match report.hashes:
        case (content,) if content == expected:
            return ReplicaState.CONVERGED, content, "runs it"
        case (content,) if report.is_failing:
            return ReplicaState.FAILING, content, f"runs {content}, and failed to load its file: its log says why"
        case (content,):
            return ReplicaState.OTHER, content, f"runs {content}"
        case ():
            return _by_time(report, threshold)
    return ReplicaState.UNKNOWN, "", "reports more than one configuration under one id"


def _by_time(report: Report, threshold: float | None) -> tuple[ReplicaState, str, str]:
    if report.is_failing:
        return ReplicaState.FAILING, "", "failed to load its file: its log says why"
    if threshold is None or report.succeeded is None:
        return ReplicaState.UNKNOWN, "", "reports no hash (before v1.34), and when the file was changed is not known"
    if report.succeeded > threshold:
        return ReplicaState.BY_TIMESTAMP, "", "reports no hash (before v1.34); it took a change later than this one"
    because = "reports no hash (before v1.34), and took no change that is surely later than this one"
    return ReplicaState.UNKNOWN, "", because


def _not_listed(asked: Sequence[Replica], live: Mapping[str, IdentityLease]) -> Iterable[Replica]:
    spoken_for = {replica.id for replica in asked}
    for identity, lease in sorted(live.items(), key=lambda pair: pair[1].name):
        if identity not in spoken_for:
            host = f" on {lease.hostname}" if lease.hostname else ""
            because = (
                f"{lease.name}{host} has a live lease, and no address answered for it; a lease of one that is gone "
                f"ends {lease.seconds} s after its last renewal"
            )
            yield Replica("", identity, lease.name, ReplicaState.NOT_LISTED, "", because)


def _uncounted(leases: Leases, live: Mapping[str, IdentityLease]) -> Iterable[Replica]:
    if leases.unreadable:
        because = f"how many kube-apiservers there are is not known: {leases.unreadable[0]}"
        if len(leases.unreadable) > 1:
            because += f"; and {len(leases.unreadable) - 1} more"
    elif not live:
        because = "how many kube-apiservers there are is not known: there is no live identity lease of one"
    else:
        return
    yield Replica("", "", "", ReplicaState.UNKNOWN, "", f"{because}. Once you know, say so with --assume-converged")


def _done(expected: str, asked: Sequence[Replica]) -> str:
    count = len({replica.id for replica in asked})
    guessed = len({replica.id for replica in asked if replica.state is ReplicaState.BY_TIMESTAMP})
    said = f"all kube-apiservers ({count}) run {expected}"
    return f"{said}; {guessed} of them as far as the times of their reloads tell" if guessed else said


def _waits_for(missing: Sequence[Replica]) -> str:
    rest = f"; and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{missing[0].because}{rest}"


def _warnings(
    expected: str, asked: Sequence[Replica], answers: Sequence[Answer], live: Mapping[str, IdentityLease]
) -> Iterable[str]:
    addresses: defaultdict[str, list[str]] = defaultdict(list)
    for replica in asked:
        if replica.id:
            addresses[replica.id].append(replica.address)
    for identity, ones in addresses.items():
        if len(ones) > 1:
            yield f"{' and '.join(ones)} are the same kube-apiserver, or a load balancer stands before them"
        if live and identity not in live:
            yield f"{ones[0]} has no live identity lease in this etcd: is it of this cluster?"
    for answer in answers:
        if any(report.is_failing and report.hashes == (expected,) for report in answer.reports):
            yield f"{answer.address} runs it, and failed to load its file since: after a restart it may not come up"
