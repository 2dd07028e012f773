"""Do all kube-apiservers run this file? Each row is a cluster with a sentence for a name."""

from __future__ import annotations

import hashlib

import pytest

from kube_rewrap.scheduler.apiservers.convergence import Convergence, ReplicaState, Scrape, assume, judge
from kube_rewrap.scheduler.apiservers.leases import IdentityLease, Leases
from kube_rewrap.scheduler.apiservers.metrics_parser import Report

NOW = 10_000.0
CHANGED = 5_000.0


def sha(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


FILE, OTHER = sha("file"), sha("other")


def lease(name: str, age: float = 10.0) -> IdentityLease:
    return IdentityLease(f"apiserver-{name}", f"node-{name}", NOW - age, 3600)


def report(name: str, *hashes: str, succeeded: float | None = None, failed: float | None = None) -> Report:
    return Report(sha(f"apiserver-{name}"), hashes, succeeded, failed)


def answer(name: str, *reports: Report) -> Scrape:
    return Scrape(f"https://{name}", reports)


def runs(name: str, content: str = FILE) -> Scrape:
    return answer(name, report(name, content))


AB = Leases((lease("a"), lease("b")))
A = Leases((lease("a"),))
NO_ANSWER = Scrape("https://b", fault="can't be reached: connection refused", reached=False)


def verdict(answers: list[Scrape], leases: Leases, changed_at: float | None = CHANGED) -> Convergence:
    return judge(FILE, answers, leases, NOW, changed_at)


def states(given: Convergence) -> list[tuple[str, str]]:
    return [(one.address, one.state.value) for one in given.replicas]


def test_all_run_it() -> None:
    given = verdict([runs("a"), runs("b")], AB)
    assert given.is_converged
    assert given.reached
    assert given.because == f"all kube-apiservers (2) run {FILE}"
    assert [(one.name, one.hash) for one in given.replicas] == [("apiserver-a", FILE), ("apiserver-b", FILE)]
    assert given.warnings == ()


@pytest.mark.parametrize(
    ("answers", "leases", "expected", "because"),
    [
        pytest.param(
            [runs("a"), runs("b", OTHER)],
            AB,
            [("https://a", "converged"), ("https://b", "other configuration")],
            f"https://b runs {OTHER}",
            id="one runs another file",
        ),
        pytest.param(
            [runs("a"), answer("b", report("b", OTHER, succeeded=1.0, failed=2.0))],
            AB,
            [("https://a", "converged"), ("https://b", "reload failing")],
            f"https://b runs {OTHER}, and failed to load its file: its log says why",
            id="one fails to load it",
        ),
        pytest.param(
            [answer("a", report("a", OTHER, succeeded=3.0, failed=2.0))],
            A,
            [("https://a", "other configuration")],
            f"https://a runs {OTHER}",
            id="a failure that is over is none",
        ),
        pytest.param(
            [runs("a"), NO_ANSWER],
            AB,
            [("https://a", "converged"), ("https://b", "unreachable"), ("", "not listed")],
            "https://b: can't be reached: connection refused; and 1 more",
            id="one is unreachable",
        ),
        pytest.param(
            [runs("a"), NO_ANSWER],
            A,
            [("https://a", "converged"), ("https://b", "unreachable")],
            "https://b: can't be reached: connection refused",
            id="one is unreachable, and its lease is over: it still has to be taken off the list",
        ),
        pytest.param(
            [runs("a")],
            AB,
            [("https://a", "converged"), ("", "not listed")],
            "apiserver-b on node-b has a live lease, and no address reported its id; the lease of a removed one ends "
            "3600 s after its last renewal",
            id="the second one has no address",
        ),
        pytest.param(
            [runs("a"), Scrape("https://a2", (report("a", FILE),))],
            AB,
            [("https://a", "converged"), ("https://a2", "converged"), ("", "not listed")],
            "apiserver-b on node-b has a live lease, and no address reported its id; the lease of a removed one ends "
            "3600 s after its last renewal",
            id="a load balancer gave the same one twice",
        ),
        pytest.param(
            [answer("a", report("a", FILE, OTHER))],
            A,
            [("https://a", "unknown")],
            "https://a reports more than one configuration under one id",
            id="it contradicts itself",
        ),
        pytest.param(
            [answer("a", report("a", FILE), report("b", OTHER))],
            AB,
            [("https://a", "converged"), ("https://a", "other configuration")],
            f"https://a runs {OTHER}",
            id="one answer for two live replicas",
        ),
        pytest.param(
            [answer("a")],
            A,
            [("https://a", "unknown"), ("", "not listed")],
            "https://a reports no EncryptionConfiguration: it runs without "
            "--encryption-provider-config-automatic-reload, or, before v1.34, took no change since it started; "
            "and 1 more",
            id="it reports nothing",
        ),
        pytest.param(
            [Scrape("https://a", fault="it answered 403")],
            A,
            [("https://a", "unknown"), ("", "not listed")],
            "https://a: it answered 403; and 1 more",
            id="it refuses to tell",
        ),
        pytest.param(
            [answer("a", report("a", succeeded=CHANGED + 5.0))],
            A,
            [("https://a", "unknown")],
            "https://a reports no hash (before v1.34), and took no change that is surely later than this one",
            id="by time, within the margin of the clocks",
        ),
        pytest.param(
            [answer("a", report("a", succeeded=CHANGED + 60.0, failed=CHANGED + 61.0))],
            A,
            [("https://a", "reload failing")],
            "https://a failed to load its file: its log says why",
            id="by time, failing",
        ),
        pytest.param(
            [runs("a")],
            Leases(),
            [("https://a", "converged"), ("", "unknown")],
            "how many kube-apiservers there are is not known: there is no live identity lease of one. Once you know "
            "that all run it, state it with `rewrap converged --assume-converged REASON`",
            id="no leases at all",
        ),
        pytest.param(
            [runs("a")],
            Leases((lease("a", age=3601.0),)),
            [("https://a", "converged"), ("", "unknown")],
            "how many kube-apiservers there are is not known: there is no live identity lease of one. Once you know "
            "that all run it, state it with `rewrap converged --assume-converged REASON`",
            id="all leases have expired",
        ),
        pytest.param(
            [runs("a")],
            Leases((lease("a"),), ("/registry/b: it is stored encrypted", "/registry/c: it is stored encrypted")),
            [("https://a", "converged"), ("", "unknown")],
            "how many kube-apiservers there are is not known: /registry/b: it is stored encrypted; and 1 more. Once "
            "you know that all run it, state it with `rewrap converged --assume-converged REASON`",
            id="leases that can't be read",
        ),
    ],
)
def test_not_converged(answers: list[Scrape], leases: Leases, expected: list[tuple[str, str]], because: str) -> None:
    given = verdict(answers, leases)
    assert not given.is_converged
    assert states(given) == expected
    assert given.because == because


@pytest.mark.parametrize(
    ("answers", "leases"),
    [
        pytest.param([runs("a")], Leases((lease("a"), lease("b", age=3601.0))), id="an expired lease counts no more"),
        pytest.param([answer("a", report("a", FILE), report("old", OTHER))], A, id="an id without a live lease is old"),
        pytest.param([runs("a"), runs("a")], A, id="the same one twice, and no other"),
        pytest.param([answer("a", report("a", FILE, succeeded=1.0, failed=2.0))], A, id="a failure after it loaded it"),
    ],
)
def test_converged_all_the_same(answers: list[Scrape], leases: Leases) -> None:
    assert verdict(answers, leases).is_converged


def test_by_time_it_is_a_guess_and_is_called_so() -> None:
    given = verdict([runs("a"), answer("b", report("b", succeeded=CHANGED + 5.1))], AB)
    assert given.is_converged
    assert states(given) == [("https://a", "converged"), ("https://b", "by timestamp")]
    assert given.because.endswith("; 1 of them inferred from the times of their reloads")


@pytest.mark.parametrize(
    ("changed_at", "succeeded"), [(None, 9_000.0), (CHANGED, None)], ids=["the file's time", "the replica's"]
)
def test_by_time_without_a_time_nothing_is_known(changed_at: float | None, succeeded: float | None) -> None:
    given = verdict([answer("a", report("a", succeeded=succeeded))], A, changed_at)
    assert [one.state for one in given.replicas] == [ReplicaState.UNKNOWN]


@pytest.mark.parametrize(
    ("answers", "warning"),
    [
        pytest.param(
            [runs("a"), Scrape("https://a2", (report("a", FILE),))],
            "https://a and https://a2 are the same kube-apiserver, or the addresses are a load balancer's",
            id="listed twice",
        ),
        pytest.param(
            [runs("a"), runs("stranger")],
            "https://stranger has no live identity lease in this etcd: check that it belongs to this cluster",
            id="of another cluster",
        ),
        pytest.param(
            [answer("a", report("a", FILE, succeeded=1.0, failed=2.0))],
            "https://a runs it, and failed to load its file since: it may fail to start after a restart",
            id="its own copy is broken now",
        ),
    ],
)
def test_warnings_change_nothing(answers: list[Scrape], warning: str) -> None:
    given = verdict(answers, A)
    assert (given.is_converged, given.warnings) == (True, (warning,))


def test_a_replica_without_identity_is_judged_and_never_counted() -> None:
    given = verdict([Scrape("https://a", (Report("", (FILE,)),))], A)
    assert states(given) == [("https://a", "converged"), ("", "not listed")]


def test_without_addresses_nothing_is_known() -> None:
    given = verdict([], A)
    assert (given.is_converged, given.reached, given.replicas) == (False, False, ())
    assert given.because.startswith("no address of a kube-apiserver is given")


def test_reached_is_whether_anything_answered() -> None:
    assert not verdict([NO_ANSWER], A).reached
    assert verdict([NO_ANSWER, Scrape("https://a", fault="it answered 500, and no metrics")], A).reached


def test_an_assumption_says_whose_word_it_is() -> None:
    nothing = judge(FILE, [], Leases(), NOW, None)
    given = assume(nothing, "restarted all of them", "2026-11-23T10:00:00+00:00")
    assert (given.is_converged, given.assumed) == (True, "restarted all of them")
    assert given.because == (
        "an operator stated at 2026-11-23T10:00:00+00:00 that all kube-apiservers run the file: restarted all of them"
    )
