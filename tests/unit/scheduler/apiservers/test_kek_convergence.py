"""Do all kube-apiservers write under the KEK that the KMS plugin names now? Times are each replica's own."""

from __future__ import annotations

import hashlib

import pytest

from kube_rewrap.scheduler.apiservers.convergence import Convergence, ReplicaState, Scrape, assume, judge
from kube_rewrap.scheduler.apiservers.leases import IdentityLease, Leases
from kube_rewrap.scheduler.apiservers.metrics_parser import KekReport, Report, parse_reports

NOW = 10_000.0
AT = 1_000_000.0


def sha(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


FILE, OLD, NEW = sha("file"), sha("kek-1"), sha("kek-2")


def kek(key_id_hash: str, named: float, written: float = 0.0, provider: str = "cloud") -> KekReport:
    return KekReport(provider, key_id_hash, named, written)


def verdict(
    *replicas: tuple[KekReport, ...], targets: dict[str, str] | None = None, content: str = FILE
) -> Convergence:
    names = [f"apiserver-{place}" for place in range(len(replicas))]
    scrapes = [
        Scrape(f"https://{name}", (Report(sha(name), (content,), keks=keks),))
        for name, keks in zip(names, replicas, strict=True)
    ]
    leases = Leases(tuple(IdentityLease(name, f"node-{name}", NOW - 10, 3600) for name in names))
    return judge(FILE, scrapes, leases, NOW, None, targets=targets or {"cloud": NEW})


@pytest.mark.parametrize(
    ("keks", "state"),
    [
        pytest.param((kek(OLD, AT), kek(NEW, AT + 179)), ReplicaState.OTHER_KEK, id="179 s apart"),
        pytest.param((kek(OLD, AT), kek(NEW, AT + 181)), ReplicaState.CONVERGED, id="181 s apart"),
        pytest.param((kek(NEW, AT),), ReplicaState.CONVERGED, id="only the target's series: it restarted since"),
        pytest.param((), ReplicaState.UNKNOWN, id="no series"),
        pytest.param((kek(OLD, AT),), ReplicaState.OTHER_KEK, id="only the former KEK's"),
        pytest.param((kek(NEW, AT), kek(OLD, AT + 500)), ReplicaState.OTHER_KEK, id="the old key id named again"),
        pytest.param((kek(NEW, AT + 999, provider="other"),), ReplicaState.UNKNOWN, id="another provider's series"),
        pytest.param((kek(OLD, AT, AT), kek(NEW, AT + 60, AT + 61)), ReplicaState.CONVERGED, id="wrote under it"),
        pytest.param((kek(OLD, AT, AT + 62), kek(NEW, AT + 60, AT + 61)), ReplicaState.OTHER_KEK, id="wrote again"),
        pytest.param((kek(OLD, 0.0, AT), kek(NEW, AT + 9)), ReplicaState.OTHER_KEK, id="written 9 s ago, never named"),
        pytest.param((kek(OLD, 0.0, AT), kek(NEW, AT + 181)), ReplicaState.CONVERGED, id="written 181 s ago"),
        pytest.param((kek(NEW, AT), kek(OLD, 0.0, AT + 100)), ReplicaState.OTHER_KEK, id="written later, never named"),
        pytest.param(
            (kek(OLD, AT, AT + 199), kek(NEW, AT + 200)), ReplicaState.OTHER_KEK, id="wrote under the former until now"
        ),
        pytest.param(
            (kek(OLD, AT, AT + 290), kek(NEW, AT + 300, AT + 200)), ReplicaState.OTHER_KEK, id="went back to the former"
        ),
        pytest.param((kek(NEW, 0.0, AT),), ReplicaState.UNKNOWN, id="written under it, and never named"),
    ],
)
def test_case_21_each_replica_by_its_own_times(keks: tuple[KekReport, ...], state: ReplicaState) -> None:
    given = verdict((kek(NEW, AT),), keks)
    assert [one.state for one in given.replicas] == [ReplicaState.CONVERGED, state]
    assert given.is_converged is state.is_converged
    assert given.file_hash == FILE


def test_case_21_the_seconds_that_are_missing_are_said() -> None:
    assert (
        "under its former KEK of the KMS provider 'cloud' for another 61 s"
        in verdict((kek(OLD, AT), kek(NEW, AT + 119))).because
    )


def test_case_21_the_same_key_id_under_two_provider_names() -> None:
    one = (kek(NEW, AT, provider="a"), kek(OLD, AT - 10, provider="b"), kek(NEW, AT, provider="b"))
    assert verdict(one, targets={"a": NEW}).is_converged
    behind = verdict(one, targets={"a": NEW, "b": NEW})
    assert not behind.is_converged
    assert "'b'" in behind.because


def test_case_21_a_replica_without_an_answer_blocks() -> None:
    leases = Leases(tuple(IdentityLease(f"apiserver-{n}", "node", NOW - 10, 3600) for n in "ab"))
    scrapes = [Scrape("https://a", (Report(sha("apiserver-a"), (FILE,), keks=(kek(NEW, AT),)),))]
    given = judge(FILE, scrapes, leases, NOW, None, targets={"cloud": NEW})
    assert [one.state for one in given.replicas] == [ReplicaState.CONVERGED, ReplicaState.NOT_LISTED]
    assert not given.is_converged


def test_the_file_is_judged_first() -> None:
    given = verdict((kek(OLD, AT),), content=sha("another file"))
    assert [one.state for one in given.replicas] == [ReplicaState.OTHER]


def test_what_contradicts_is_told_from_what_is_unknown() -> None:
    assert verdict((kek(OLD, AT),)).is_contradicted
    assert not verdict(()).is_contradicted


def stated(found: Convergence) -> Convergence:
    return assume(found, "restarted all", "2026-01-01T00:00:00+00:00")


def scraped(*keks: KekReport, hashes: tuple[str, ...] = ()) -> Scrape:
    return Scrape("https://a", (Report(sha("apiserver-a"), hashes, keks=keks),))


LEASES = Leases(tuple(IdentityLease(f"apiserver-{name}", f"node-{name}", NOW - 10, 3600) for name in "a"))
BOTH = Leases(tuple(IdentityLease(f"apiserver-{name}", f"node-{name}", NOW - 10, 3600) for name in "ab"))
UNREADABLE = Leases(LEASES.found, ("/registry/b: it is stored encrypted",))


@pytest.mark.parametrize(
    ("scrapes", "leases", "because"),
    [
        pytest.param([], LEASES, "", id="no address is given"),
        pytest.param([scraped(kek(NEW, AT))], LEASES, "", id="no file is shown, the KEK is"),
        pytest.param([scraped(kek(NEW, AT), hashes=(FILE,))], UNREADABLE, "", id="leases are encrypted"),
        pytest.param(
            [scraped(kek(OLD, AT))],
            LEASES,
            "https://a has another KEK of the KMS provider 'cloud' than this configuration's",
            id="no file is shown, and another KEK",
        ),
        pytest.param(
            [scraped(kek(OLD, AT), kek(NEW, AT + 119))],
            LEASES,
            "https://a may write under its former KEK of the KMS provider 'cloud' for another 61 s",
            id="no file is shown, and the former KEK lasts",
        ),
        pytest.param(
            [scraped(hashes=(FILE,))],
            LEASES,
            "https://a reports no key id of the KMS provider 'cloud'",
            id="the file is shown, and no KEK",
        ),
        pytest.param(
            [Scrape("https://a")],
            LEASES,
            "https://a reports no key id of the KMS provider 'cloud'; and 1 more",
            id="nothing is shown",
        ),
        pytest.param([Scrape("https://a", fault="refused")], LEASES, "https://a: refused; and 1 more", id="a fault"),
        pytest.param(
            [scraped(kek(NEW, AT), hashes=(FILE,))],
            BOTH,
            "apiserver-b on node-b has a live lease",
            id="one is not listed",
        ),
    ],
)
def test_a_statement_is_about_the_file_and_covers_no_kek(scrapes: list[Scrape], leases: Leases, because: str) -> None:
    found = judge(FILE, scrapes, leases, NOW, None, targets={"cloud": NEW})
    assert not found.is_converged
    given = stated(found)
    if not because:
        assert (given.is_converged, given.assumed) == (True, "restarted all")
        return
    assert (given.is_converged, given.assumed) == (False, None)
    assert given.because.startswith(because)
    assert "No statement covers the KEK" in given.because
    # Without KMS the same gaps are the statement's to fill.
    assert stated(judge(FILE, scrapes, leases, NOW, None)).is_converged


def test_a_statement_overrides_no_replica_that_reports_another_file() -> None:
    found = judge(FILE, [scraped(kek(NEW, AT), hashes=(sha("other"),))], LEASES, NOW, None, targets={"cloud": NEW})
    assert stated(found) == found


def test_without_an_address_a_former_kek_may_be_in_use() -> None:
    given = stated(judge(FILE, [], LEASES, NOW, None, targets={"cloud": NEW}))
    assert given.lingering.startswith("no address of a kube-apiserver is given")
    assert judge(FILE, [], LEASES, NOW, None).lingering == ""


def test_metrics_of_the_keks_are_read() -> None:
    status = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds"
    used = "apiserver_envelope_encryption_key_id_hash_last_timestamp_seconds"
    common = f'apiserver_id_hash="{sha("a")}",key_id_hash="{NEW}",provider_name="cloud"'
    lines = [
        f"{status}{{{common}}} 1.5e+09",
        f'{used}{{{common},transformation_type="to_storage"}} 1.6e+09',
        f'{used}{{{common},transformation_type="from_storage"}} 1.7e+09',
        f"apiserver_envelope_encryption_key_id_hash_total{{{common}}} 4",
    ]
    [report] = parse_reports([line.encode() for line in lines])
    assert report == Report(sha("a"), keks=(KekReport("cloud", NEW, 1.5e9, 1.6e9),))
    assert not report.shows_file


def test_a_replica_that_shows_keks_and_no_file_is_unknown() -> None:
    scrape = Scrape("https://a", (Report(sha("apiserver-a"), keks=(kek(NEW, AT),)),))
    leases = Leases((IdentityLease("apiserver-a", "node", NOW - 10, 3600),))
    given = judge(FILE, [scrape], leases, NOW, None, targets={"cloud": NEW})
    assert given.replicas[0].state is ReplicaState.UNKNOWN
    assert "reports no EncryptionConfiguration" in given.because


@pytest.mark.parametrize(
    ("keks", "lingers"),
    [
        pytest.param((kek(OLD, AT), kek(NEW, AT + 239)), True, id="239 s apart"),
        pytest.param((kek(OLD, AT), kek(NEW, AT + 241)), False, id="241 s apart"),
        pytest.param((kek(NEW, AT),), False, id="only the target's series"),
        pytest.param((kek(OLD, AT, AT), kek(NEW, AT + 90, AT + 59)), True, id="wrote under it within a minute"),
        pytest.param((kek(OLD, AT, AT), kek(NEW, AT + 90, AT + 61)), False, id="wrote under it after a minute"),
    ],
)
def test_a_request_under_a_former_kek_may_be_in_flight_for_a_minute(keks: tuple[KekReport, ...], lingers: bool) -> None:
    given = verdict((kek(NEW, AT),), keks)
    assert ("may write under its former KEK" in given.lingering) is lingers
