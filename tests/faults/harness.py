"""The command line with kill points: run as `python -m tests.faults.harness WORDS`.

Before and after every effect on etcd there is a named point, `group.before` to `revoke.after` (`POINTS`). Where
`KILL_AT` names one, as `swap.after:3`, the process ends itself by SIGKILL when it passes there for the third time.
`VICTIM` is the id of another process that is to be killed in its place, as a KMS plugin.
`KILL_CHILD_AT` does the same in the first child process of a run that passes there (`child_harness.py`).
Swaps are sent in groups; only for a kill at `swap` they are sent one by one, so that it can fall between two.
Each encryption is written to the file `ENCRYPTIONS` before it happens: the fingerprint of the key, a line each.
Nothing else of the product is changed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence

from kube_rewrap.cli.commands import run as run_command
from kube_rewrap.cli.main import main
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd import client
from kube_rewrap.worker.etcd.client import EtcdStore
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Item, Put, SwapResult
from kube_rewrap.worker.providers.aescbc import AesCbc
from kube_rewrap.worker.providers.aesgcm import AesGcm
from kube_rewrap.worker.providers.secretbox import Secretbox

EFFECTS = (
    *("group", "swap", "grant", "revoke"),
    *("ledger", "batches", "claims", "campaigns", "quarantine", "owner"),  # records by their kind
    *("sweep", "forget"),  # a campaign's next sweep, and the end of what is old
)
POINTS = tuple(f"{effect}.{side}" for effect in EFFECTS for side in ("before", "after"))


class Killer:
    """Counts how often each point was passed, and ends the process at the one that was asked for."""

    def __init__(self, order: str, mark: str = "") -> None:
        """`mark` is a file that the first process to die makes, and that keeps the others alive."""
        self._mark = mark
        self._point, _, times = order.partition(":")
        self.one_by_one = self._point.startswith("swap.")
        self._times = int(times or 1)
        self._passed: Counter[str] = Counter()
        self._victim = int(os.environ.get("VICTIM", os.getpid()))

    def at(self, point: str) -> None:
        self._passed[point] += 1
        if point == self._point and self._passed[point] == self._times and self._is_first():
            os.kill(self._victim, signal.SIGKILL)

    def _is_first(self) -> bool:
        if not self._mark:
            return True
        try:
            os.close(os.open(self._mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True


class DeadlyStore(EtcdStore):
    """EtcdStore with points around every effect."""

    killer: Killer

    async def swap_all(
        self, swaps: Sequence[tuple[Item, bytes]], guard: Expect | None = None
    ) -> list[SwapResult | WorkerError]:
        self.killer.at("group.before")
        if self.killer.one_by_one:
            ends = [end for swap in swaps for end in await self._swap_one(swap, guard)]
        else:
            ends = await super().swap_all(swaps, guard)
        self.killer.at("group.after")
        return ends

    async def _swap_one(self, swap: tuple[Item, bytes], guard: Expect | None) -> list[SwapResult | WorkerError]:
        self.killer.at("swap.before")
        ends = await super().swap_all([swap], guard)
        self.killer.at("swap.after")
        return ends

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        effect = effect_of(changes)
        self.killer.at(f"{effect}.before")
        result = await super().commit(expects, changes)
        self.killer.at(f"{effect}.after")
        return result

    async def grant_lease(self, seconds: int) -> int:
        self.killer.at("grant.before")
        lease = await super().grant_lease(seconds)
        self.killer.at("grant.after")
        return lease

    async def revoke_lease(self, lease: int) -> None:
        self.killer.at("revoke.before")
        await super().revoke_lease(lease)
        self.killer.at("revoke.after")


def effect_of(changes: Sequence[Put | Delete]) -> str:
    """The kind of record that is changed; a sweep is the campaign and its quarantine in one."""
    first = changes[0]
    if isinstance(first, Delete):
        return "forget"
    kind = kind_of(first.key)
    forgets = any(isinstance(change, Delete) and kind_of(change.range.start) == "quarantine" for change in changes)
    return "sweep" if kind == "campaigns" and forgets else kind


def kind_of(record: bytes) -> str:
    """The kind of record at a key such as `/kube-rewrap/v1/ledger/…`."""
    return record.split(b"/")[3].decode()


def count_encryptions(cipher: type[AesCbc | AesGcm | Secretbox], provider: str, log: int) -> None:
    """Makes a cipher write down each encryption. Its instances live as long as the process, so their ids last."""
    fingerprints: dict[int, bytes] = {}
    make, seal = cipher.__init__, cipher.seal_with

    def init(self: AesCbc | AesGcm | Secretbox, secret: SecretBytes) -> None:
        make(self, secret)  # type: ignore[arg-type]
        fingerprints[id(self)] = secret.fingerprint(provider).encode()

    def seal_with(self: AesCbc | AesGcm | Secretbox, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        os.write(log, fingerprints[id(self)] + b"\n")
        return seal(self, nonce, plaintext, aad)  # type: ignore[arg-type]

    setattr(cipher, "__init__", init)  # noqa: B010 - mypy refuses the plain assignment, rightly elsewhere
    setattr(cipher, "seal_with", seal_with)  # noqa: B010


def install(killer: Killer) -> None:
    """Gives this process the points and the count of encryptions."""
    log = os.open(os.environ["ENCRYPTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for cipher, provider in ((AesCbc, "aescbc"), (AesGcm, "aesgcm"), (Secretbox, "secretbox")):
        count_encryptions(cipher, provider, log)
    DeadlyStore.killer = killer
    setattr(client, "EtcdStore", DeadlyStore)  # noqa: B010


def run(words: Sequence[str]) -> int:
    install(Killer(os.environ.get("KILL_AT", "")))
    setattr(run_command, "CHILD", (sys.executable, "-m", "tests.faults.child_harness"))  # noqa: B010
    return main(words)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
