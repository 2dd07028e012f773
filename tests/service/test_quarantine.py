"""Somebody who tries out values in etcd: the service answers a bounded number of them, and asks for a hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.provider import IdentityProvider
from tests.servers.etcd import EtcdCluster
from tests.servers.redis import RedisServer
from tests.service.harness import NEW, NEWEST, OLD, Service, service

pytestmark = pytest.mark.timeout(110)

GUESSES = 600
MOST = 200
PREFIX = b"k8s:enc:aescbc:v1:old-key:"
PUT = "/registry/secrets/default/put-there"
OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
LATE = "plaintext_after_completion"


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        yield one


def test_values_that_somebody_tries_out_stop_the_campaign_until_an_operators_word(cluster: Service) -> None:
    cluster.fill(100, namespaces=4)
    admin = cluster.etcd.admin()
    # Each resource has a batch of its own, and two are worked on at a time.
    places = [f"/registry/{resource}/guess" for resource in ("secrets", "configmaps")]
    admin.put_all({f"{place}/{n:04}": PREFIX + os.urandom(64) for place in places for n in range(GUESSES)})
    cluster.configure(NEW, OLD)
    cluster.start("scheduler")
    worker = cluster.start("worker")
    cluster.wait(lambda: worker.said("quarantine.grew"), "the alarm")
    (paused,) = cluster.campaigns()
    # The worker that raised the alarm pauses the campaign first; all enter their counts before they give up a claim.
    cluster.wait(lambda: worker.said("audit", entry_event="quarantine.grew"), "it is in the audit log")
    cluster.wait_no_claim(str(paused["id"]))
    shown = cluster.run("campaign", "show", str(paused["id"])).document
    assert shown["campaign"]["paused_for"] == "quarantine"
    # The bound holds over all that were at work; a group of objects that would pass it is not answered at all.
    assert MOST - 64 <= shown["report"]["fresh"] <= MOST
    events = [entry["event"] for entry in cluster.run("audit-log", "list").document["entries"]]
    assert events.count("quarantine.grew") == 1

    resumed = cluster.run("campaign", "resume", str(paused["id"])).document
    assert resumed["because"] == "resume by an operator"
    ended = cluster.wait_finished(1)
    assert (ended["campaign"], ended["state"], ended["quarantined"]) == (paused["id"], "incomplete", 2 * GUESSES)
    assert cluster.opened_by(NEW, "/registry/secrets/") + GUESSES == len(admin.read("/registry/secrets/"))


def test_plaintext_put_into_etcd_after_completion_is_left_alone_and_still_is_under_the_next_key(
    cluster: Service,
) -> None:
    cluster.more_settings = "[plaintext]\nquarantine_late = true\n"
    cluster.fill(100, namespaces=4)
    cluster.configure(NEW, OLD, IdentityProvider())
    scheduler = cluster.start("scheduler")
    cluster.start("worker")
    assert cluster.wait_finished(1)["state"] == "complete"
    admin = cluster.etcd.admin()
    admin.put_all({PUT: OBJECT})
    cluster.wait(lambda: scheduler.said("observer.unreadable", reason=LATE), "the observer's word")
    cluster.configure(NEWEST, NEW, OLD, IdentityProvider())
    ended = cluster.wait_finished(2)
    assert (ended["state"], ended["quarantined"]) == ("incomplete", 1)
    (named,) = scheduler.said("object.quarantined")
    assert (named["key"], named["reason"]) == (PUT, LATE)
    assert [one.value for one in admin.read(PUT)] == [OBJECT]
    assert cluster.opened_by(NEWEST) == 100
