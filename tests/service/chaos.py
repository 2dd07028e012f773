"""A service under fire: one dice says what is killed and when, while keys change and kube-apiservers write.

`Chaos.run` ends when the service has come to rest again; `test_chaos.py` says what must hold then. Not handled: an etcd
that forgets what it acknowledged.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.integration.apiserver import write_private
from tests.service.harness import Daemon, Service
from tests.service.writer import Ring, Writer, names

STATE = "/kube-rewrap/v1/"
ROLES = ("worker", "scheduler", "redis", "etcd")
_CHILDREN = "2"
_OF_EACH = 2
_ENDS = {"complete", "incomplete", "superseded", "cancelled"}
# Bounds, not expectations: after the death of everything at once two leases of 15 seconds end one after the other, and
# a scheduler that saw etcd die often waits half a minute between two attempts.
_MOVE_SECONDS = 150.0
_REST_SECONDS = 300.0
# Small pages and blocks: a kill loses little of a batch, and few unused reservations hide a write that had none.
_SETTINGS = """
[etcd]
call_timeout = 3.0
[page]
objects = 50
[budget]
block = 50
[broker]
timeout = 2.0
[service]
poll = 1.0
debounce = 0.1
slice = 1.0
progress = 5.0
resync = 20.0
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. `kills` is how often each of `ROLES` dies; every hundred namespaces make a batch."""

    objects: int
    namespaces: int
    rate: int
    kills: int
    midway: float
    """How likely it is, before each kill, that the key changes though a campaign is at work."""
    lets_end: float
    """How likely it is, before each kill, that everything may come to its end first."""
    between: float = 1.5
    """The longest wait before a kill in seconds."""


class Chaos:
    """One service, one dice, and the faults that it throws. `story` tells them with their time."""

    def __init__(self, cluster: Service, size: Size, seed: int) -> None:
        self.cluster = cluster
        self.size = size
        self.seed = seed
        self.dice = random.Random(seed)
        self.ring = Ring(cluster.file)
        self.writer = Writer(cluster.etcd.admin(), self.ring, seed + 1)
        self.kills: Counter[str] = Counter()
        self.slots: dict[str, list[Daemon]] = {"worker": [], "scheduler": []}
        self.story: list[str] = []
        self._seen = 0
        settings = write_private(cluster.directory / "chaos.toml", _SETTINGS)
        cluster.variables |= {"REWRAP_SETTINGS": str(settings), "REWRAP_RATE": str(size.rate)}

    def run(self) -> None:
        """From an unencrypted past to the last proof, with every fault between the two."""
        self._begin()
        faults = [*ROLES] * self.size.kills
        self.dice.shuffle(faults)
        with self.writer:
            for role in faults:
                self._to_the_middle()
                self._fault(role)
                self.writer.check()
            self._change_key()
        self._come_to_rest()

    def run_one_campaign(self) -> None:
        """From an unencrypted past to the proof of one campaign, with kills from its first batch to its last."""
        self._begin()
        faults: list[str] = []
        with self.writer:
            while not self.rests():
                self.cluster.wait(lambda: self._moved() or self.rests(), "work that goes on", _MOVE_SECONDS)
                self._pause(self.size.between)
                faults = faults or self.dice.sample(ROLES, len(ROLES))
                self._fault(faults.pop())
                self.writer.check()
        self._come_to_rest()

    def _begin(self) -> None:
        self.writer.fill(names(self.size.objects, self.size.namespaces))
        self.ring.promote(self.ring.announce())
        for role, daemons in self.slots.items():
            for _ in range(_OF_EACH):
                daemons.append(self._start(role))

    def _come_to_rest(self) -> None:
        self.cluster.wait(lambda: self.rests() and not self.stale(), "rest with everything proven", _REST_SECONDS)
        self._tell("the service rests")

    @contextmanager
    def told(self) -> Iterator[None]:
        """A failure says how to see it again."""
        try:
            yield
        except BaseException as error:
            error.add_note("\n".join([f"CHAOS_SEED={self.seed}", *self.story]))
            raise

    # What is on record.

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(found.value) for found in self.cluster.etcd.admin().read(f"{STATE}{kind}")]

    def rests(self) -> bool:
        """Nothing is at work or asked for, and the present configuration was proven."""
        campaigns = self.records("campaigns/")
        return (
            all(one["state"] in _ENDS for one in campaigns)
            and all(one["state"] != "waiting" for one in self.records("requests/"))
            and any((one["state"], one["generation"]) == ("complete", self.ring.generation) for one in campaigns)
        )

    def stale(self) -> list[str]:
        """The objects that the last primary does not read."""
        found = self.cluster.etcd.admin().read("/registry/")
        return [one.key for one in found if self.ring.primary.open(one.key, one.value) is None]

    # Between two faults.

    def _to_the_middle(self) -> None:
        """Waits, most times, until the service works on; at other times the next fault comes before it does."""
        if self.dice.random() < self.size.lets_end:
            self.cluster.wait(self.rests, "a campaign's end", _REST_SECONDS)
        if self.dice.random() < self.size.midway or self.rests():
            self._change_key()
        if self.dice.random() < 0.75:
            self.cluster.wait(lambda: self._moved() or self.rests(), "work that goes on", _MOVE_SECONDS)
        self._pause(self.size.between)

    def _change_key(self) -> None:
        key = self.ring.announce()
        self.cluster.wait(self._is_followed, "the new key is known", _MOVE_SECONDS)
        self.ring.promote(key)
        self._tell(f"{key.provider} {key.name} became the primary key")

    def _is_followed(self) -> bool:
        return any(one["hash"] == self.ring.generation for one in self.records("generation"))

    def _moved(self) -> bool:
        return self._newest_record() > self._seen

    def _newest_record(self) -> int:
        """The revision of the last change to a campaign, one of its batches, or a part of its proof."""
        gateway = self.cluster.etcd.admin()
        found = [one for kind in ("batches/", "campaigns/", "proofs/") for one in gateway.read(f"{STATE}{kind}")]
        return max((one.mod_revision for one in found), default=0)

    def _pause(self, most: float) -> None:
        threading.Event().wait(self.dice.uniform(0, most))

    # Faults.

    def _fault(self, role: str) -> None:
        match role:
            case "worker":
                self._kill_daemon(role, self.dice.randrange(_OF_EACH))
            case "scheduler":
                self._kill_daemon(role, self._scheduler())
            case "redis":
                self._kill_redis()
            case "etcd":
                self._kill_etcd()
        self.kills[role] += 1
        self._seen = self._newest_record()

    def _kill_daemon(self, role: str, slot: int) -> None:
        daemon = self.slots[role][slot]
        assert daemon.running, f"a {role} ended by itself:\n{daemon.text[-3000:]}"
        daemon.kill()
        self._tell(f"killed {role} {daemon.pid}")
        self._pause(2.0)
        self.slots[role][slot] = self._start(role)

    def _scheduler(self) -> int:
        """The leader, more often than not."""
        leaders = [one["pid"] for one in self.records("leader")]
        leading = [slot for slot, daemon in enumerate(self.slots["scheduler"]) if daemon.pid in leaders]
        return leading[0] if leading and self.dice.random() < 0.6 else self.dice.randrange(_OF_EACH)

    def _kill_redis(self) -> None:
        """It comes back as it was, as it was a while ago, or empty."""
        server = self.cluster.redis
        comes_back = self.dice.choice(["as it was", "as it was at the last save", "empty"])
        if comes_back == "as it was":
            server.run("SAVE")
        [_, directory] = server.run("CONFIG", "GET", "dir")
        server.kill()
        if comes_back == "empty":
            Path(directory, "dump.rdb").unlink(missing_ok=True)
        self._tell(f"killed redis, which comes back {comes_back}")
        self._pause(3.0)
        server.start()

    def _kill_etcd(self) -> None:
        member = self.cluster.etcd.members[0]
        member.kill()
        self._tell("killed etcd")
        self._pause(3.0)
        member.start()

    def _start(self, role: str) -> Daemon:
        words = (role, "--children", _CHILDREN) if role == "worker" else (role,)
        daemon = self.cluster.start(*words)
        self._tell(f"started {role} {daemon.pid}")
        return daemon

    def _tell(self, what: str) -> None:
        self.story.append(f"{datetime.now(UTC):%H:%M:%S.%f} {what}")
        (self.cluster.directory / "story.log").write_text("\n".join(self.story) + "\n")
