"""Checks of the environment: each row differs in the file, an endpoint, the kube-apiservers or etcd's size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.scheduler.hardening.facts import HardeningFacts, State
from kube_rewrap.worker.etcd.grants import Access
from kube_rewrap.worker.rate.pressure import Room
from tests.unit.scheduler.hardening.cluster import (
    DEFAULT,
    FAIL,
    FULL,
    GOOD,
    LAGGING,
    NOBODY,
    NOTHING,
    OF_KMS,
    PASS,
    SOCKET,
    UNCLEAR,
    UNKNOWN,
    WARN,
    endpoint,
    file,
    require,
    sockets,
)

ROWS = [
    (
        "others may read the file => fail",
        "file-mode",
        file(mode=0o644),
        FAIL,
        "/e/enc.yaml holds keys, and its mode 0644 gives group or others access",
    ),
    (
        "the group may write it => fail",
        "file-mode",
        file(mode=0o620),
        FAIL,
        "/e/enc.yaml holds keys, and its mode 0620 gives group or others access",
    ),
    ("the file is not root's => warn", "file-owner", file(owner=7), WARN, "/e/enc.yaml belongs to uid 7, not to root"),
    (
        "the group may write to the directory => fail",
        "directory-mode",
        file(directory=0o770),
        FAIL,
        "group or others can write to the directory of the file: /e (0770)",
    ),
    (
        "everyone may write to the directory => fail, even with the sticky bit",
        "directory-mode",
        file(directory=0o1777),
        FAIL,
        "group or others can write to the directory of the file: /e (1777)",
    ),
    (
        "http on the network => fail",
        "etcd-tls",
        endpoint("http://10.0.0.2:2379", Access.ASKS_PASSWORD, secure=False),
        FAIL,
        "no TLS on the network: http://10.0.0.2:2379",
    ),
    (
        "http on loopback => warn",
        "etcd-tls",
        endpoint("http://127.0.0.1:2379", Access.ASKS_PASSWORD, secure=False, local=True),
        WARN,
        "no TLS, though not beyond this machine: http://127.0.0.1:2379",
    ),
    (
        "one endpoint answers strangers => fail",
        "etcd-access",
        endpoint("https://10.0.0.2:2379", Access.ANSWERS),
        FAIL,
        "a client without certificate and password can read from https://10.0.0.2:2379",
    ),
    (
        "one endpoint does not answer at all => unknown",
        "etcd-access",
        endpoint("https://10.0.0.2:2379", Access.UNCLEAR, "it is down"),
        UNKNOWN,
        f"{UNCLEAR}: https://10.0.0.2:2379: it is down",
    ),
    (
        "a password is asked for => pass",
        "etcd-access",
        endpoint("https://10.0.0.2:2379", Access.ASKS_PASSWORD),
        PASS,
        f"{NOTHING}: https://10.0.0.1:2379 refuses, https://10.0.0.2:2379 asks for a password",
    ),
    (
        "a kube-apiserver says that it runs another file => fail",
        "converged",
        replace(GOOD, convergence=replace(NOBODY, because=LAGGING.because, replicas=(LAGGING,))),
        FAIL,
        "https://a runs sha256:1",
    ),
    (
        "no address is given => unknown",
        "converged",
        replace(GOOD, convergence=NOBODY),
        UNKNOWN,
        "no address of a kube-apiserver is given",
    ),
    (
        "a plugin names no KEK => under which one they write is unknown",
        "converged",
        replace(OF_KMS, missing="the plugin is down"),
        UNKNOWN,
        "all kube-apiservers (3) run it; under which KEK they write is not compared, since no plugin names one",
    ),
    ("no KMS provider writes => pass", "converged", replace(GOOD, missing="x"), PASS, "all kube-apiservers (3) run it"),
    ("no KMS provider => pass", "kms-socket", GOOD, PASS, "no KMS provider connects to a socket"),
    ("as it should be => pass", "kms-socket", sockets(), PASS, f"only owner and group can connect to {SOCKET!r}"),
    (
        "a file is in its place => fail",
        "kms-socket",
        sockets(is_socket=False),
        FAIL,
        f"vault: {SOCKET!r} is no socket",
    ),
    (
        "others can write to it => fail",
        "kms-socket",
        sockets(mode=0o777),
        FAIL,
        f"vault: {SOCKET!r} has mode 0777: every process of this machine can connect",
    ),
    (
        "others can write to it, and can't reach it => pass",
        "kms-socket",
        sockets(mode=0o777, is_shielded=True),
        PASS,
        f"only owner and group can connect to {SOCKET!r}",
    ),
    (
        "others can write to its directory => fail",
        "kms-socket",
        sockets(directory_mode=0o1777),
        FAIL,
        f"vault: {SOCKET!r} lies in a directory to which others can write (1777)",
    ),
    (
        "its directory belongs to a third user => warn",
        "kms-socket",
        sockets(directory_owner=1000),
        WARN,
        f"vault: {SOCKET!r} lies in a directory of uid 1000, which is neither root's nor the plugin's",
    ),
    (
        "its directory belongs to the plugin => pass",
        "kms-socket",
        sockets(owner=1000, directory_owner=1000),
        PASS,
        f"only owner and group can connect to {SOCKET!r}",
    ),
    (
        "its directory's group can write => warn",
        "kms-socket",
        sockets(directory_mode=0o770),
        WARN,
        f"vault: {SOCKET!r} lies in a directory to which its group can write (0770)",
    ),
    (
        "it is abstract => warn",
        "kms-socket",
        sockets(address="@kms", unseen="it has a name and no file"),
        WARN,
        "vault: '@kms' is abstract: every process in its network namespace can connect",
    ),
    (
        "it is not on this machine => unknown",
        "kms-socket",
        sockets(unseen="No such file or directory"),
        UNKNOWN,
        f"vault: {SOCKET!r} can't be looked at from here: No such file or directory",
    ),
    (
        "past 60 % of the quota => warn",
        "space",
        replace(GOOD, room=Room(61, 100, None)),
        WARN,
        "the database is at 61% of its quota",
    ),
    ("past the stop mark => fail", "space", replace(GOOD, room=Room(81, 100, f"{FULL}: compact it")), FAIL, FULL),
    (
        "an alarm is raised => fail",
        "space",
        replace(GOOD, room=Room(1, 100, "etcd raised the alarm NOSPACE: compact it")),
        FAIL,
        "etcd raised the alarm NOSPACE",
    ),
    (
        "one endpoint does not tell its size => unknown",
        "space",
        replace(GOOD, silent=("https://10.0.0.3:2379",)),
        UNKNOWN,
        "the database is at 50% of its quota, but these endpoints did not report theirs: https://10.0.0.3:2379",
    ),
    (
        "etcd does not tell its quota => pass, and that is said",
        "space",
        replace(GOOD, quota_told=False),
        PASS,
        f"the database is at 50% of its quota, {DEFAULT}, and no alarm is raised",
    ),
]


@pytest.mark.parametrize(
    ("name", "given", "state", "reason"), [pytest.param(*row[1:], id=f"{row[1]}: {row[0]}") for row in ROWS]
)
def test_what_is_found(name: str, given: HardeningFacts, state: State, reason: str) -> None:
    require(given, name, state, reason)
