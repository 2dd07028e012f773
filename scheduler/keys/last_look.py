"""Judges keys for destruction, and looks through the rest of etcd before it lets one be called destroyable.

A scan reads what the present configuration governs. Before, the cluster may have encrypted other resources; and an etcd
may have the registry of another cluster, too. kube-apiserver can't read such a value under this configuration, but with
its key an operator can.

The look reads every value of etcd that the scan did not, at the pace of a scan; only where a key has no other blocker.

Not handled: other etcds, such as those of kube-apiserver's --etcd-servers-overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.keys.destruction import Candidate, Destruction, judge_destruction
from kube_rewrap.scheduler.keys.removal_facts import RemovalVerdicts
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import survey_cluster
from kube_rewrap.worker.errors import RequestRefusedError
from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange, key_bytes, key_text
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.rotations import Rotations

ROTATING = "a rotation is under way"
_ALL = KeyRange(b"\0", b"\xff" * 64)
_ENCRYPTED = b"k8s:enc:"
_NAMED = 3
_LONGEST_NAMED = 200
"""Bytes of a path that a blocker shows."""


@dataclass(slots=True)
class Rest:
    """The encrypted values that no scan reads. `ungoverned`: their number in the registry, `paths` some of theirs.

    `outside`: prefixes of values, out of those that were looked for, outside the registry. `unseen`: etcd does not let
    this user read there.
    """

    root: bytes
    ungoverned: int = 0
    paths: tuple[bytes, ...] = ()
    outside: frozenset[bytes] = frozenset()
    unseen: bool = False

    def blockers(self, one: Candidate) -> tuple[str, ...]:
        """Return what speaks against the destruction of a key."""
        found = []
        if self.ungoverned:
            names = ", ".join(key_text(path[:_LONGEST_NAMED]) for path in self.paths)
            found.append(f"{self.ungoverned} encrypted objects that no entry governs may be under it: {names}")
        if not self.outside.isdisjoint(prefixes_of(one)):
            found.append(f"values outside {key_text(self.root)} have the prefix of its values")
        if self.unseen:
            found.append(f"etcd does not let this user look outside {key_text(self.root)}: values may be under it")
        return tuple(found)


def prefixes_of(one: Candidate) -> frozenset[bytes]:
    """Return how values under a key begin, by all its names; for a KEK, those of any KMS provider."""
    if one.key.provider == ProviderType.KMS:
        return frozenset((_ENCRYPTED + b"kms:",))
    types = {key.provider for key in (one.key, *one.also)}
    return frozenset(_ENCRYPTED + key_bytes(f"{kind}:v1:{name}:") for kind in types for name in one.names)


async def judge_in_cluster(
    cluster: Cluster,
    candidates: Sequence[Candidate],
    judged: RemovalVerdicts | None,
    read: Callable[[], Catalogue],
    now: float,
) -> list[Destruction]:
    """Judge keys as `judge_destruction`; a key without other blockers by the rest of etcd and by rotations, too.

    `read` returns the catalogue, and is called once more after the look, which may take long. Raises WorkerError, and
    what `read` raises.
    """
    since = judged.since if judged is not None else 0
    first = judge_destruction(candidates, read(), now, since)
    doubtful = [one.candidate for one in first if one.destroyable]
    if not doubtful:
        return first
    engine = cluster.engine
    rotating = (ROTATING,) if await Rotations(engine.store, engine.keyspace).unfinished() else ()
    governed = [one.range for one in (await survey_cluster(cluster)).governed]
    sought = frozenset(prefix for one in doubtful for prefix in prefixes_of(one))
    rest = await look_through(engine.store, cluster.layout.root, governed, sought)
    again = [
        replace(one, cluster=(*one.cluster, *rotating, *rest.blockers(one))) if one in doubtful else one
        for one in candidates
    ]
    return judge_destruction(again, read(), now, since)


async def look_through(store: Store, root: bytes, governed: Iterable[KeyRange], sought: Collection[bytes] = ()) -> Rest:
    """Read all values outside the governed ranges. `sought`: prefixes to look for outside the registry at `root`."""
    registry, rest = KeyRange.of_prefix(root), Rest(root)
    for gap in _gaps(registry, governed):
        async with aclosing(read_items(store, gap)) as items:
            async for item in items:
                if item.value.startswith(_ENCRYPTED):
                    rest.ungoverned += 1
                    rest.paths = _with(rest.paths, item.key, root)
    try:
        for gap in _gaps(_ALL, [registry]):
            async with aclosing(read_items(store, gap)) as items:
                async for item in items:
                    if item.value.startswith(_ENCRYPTED):
                        rest.outside |= {prefix for prefix in sought if item.value.startswith(prefix)}
    except RequestRefusedError:
        rest.unseen = True
    return rest


def _gaps(whole: KeyRange, parts: Iterable[KeyRange]) -> Iterator[KeyRange]:
    """Yield the ranges of `whole` that no part covers."""
    start = whole.start
    for part in sorted(parts, key=lambda one: one.start):
        if start < part.start:
            yield KeyRange(start, part.start)
        start = max(start, part.end)
    if start < whole.end:
        yield KeyRange(start, whole.end)


def _with(paths: tuple[bytes, ...], key: bytes, root: bytes) -> tuple[bytes, ...]:
    """Return the paths with that of a key, unless enough are named."""
    path = root + key[len(root) :].partition(b"/")[0] + b"/"
    return paths if path in paths or len(paths) >= _NAMED else (*paths, path)
