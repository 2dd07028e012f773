"""What a gap may hide: revisions that etcd compacted away before the watch had seen them. Arithmetic only.

Each of them counts as a write of a key, unless something that is left proves that it was none. What proves that:

- kube-apiserver and rewrap write one object in a transaction, so each write has a revision of its own, and no key
  made more writes than the gap has revisions.
- An object tells when it was created, when it was last written, and how often (etcd's `version`). The last write is
  known with the key that made it. If nothing encrypts the object and it was created within the gap, all its writes
  lie in the gap and none was of any key; if it is older, only its last one is known to lie there.
- A record of our own was created and last written at revisions that it tells. Several may have been written in one
  transaction, so their versions don't add up. The observer's record names the revisions of its own former versions.
- What lies before the place of the watch in another range is counted already.

What proves nothing: the versions of encrypted objects, and that none of them was written since. An object that was
created, or rewritten, and deleted within the gap leaves revisions only, so what is not explained by the above may
have been writes of any key in the range. A range is quiet when nothing is left to explain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kube_rewrap.worker.records.budget import Landed


@dataclass(frozen=True, slots=True)
class Gap:
    """What is left of the revisions from `first` on and before `end`.

    `makers`: by revision, the keys that may have made that write, by fingerprint; none where no key did. `wheres`: by
    revision, the governed resource of the object that was written. `elsewhere`: further writes of objects that nothing
    encrypts.
    """

    first: int
    end: int
    makers: Mapping[int, frozenset[str]] = field(default_factory=dict)
    wheres: Mapping[int, str] = field(default_factory=dict)
    elsewhere: tuple[Landed, ...] = ()

    def most(self, fingerprint: str, low: int, high: int, seen: Collection[int] = ()) -> int:
        """Return how often a key may have written from `low` to before `high`; `seen` are revisions that don't count.

        Both bounds lie within the gap.
        """
        none = {at for at, makers in self.makers.items() if low <= at < high and fingerprint not in makers}
        none.update(at for at in seen if low <= at < high)
        late = (one.since(low) for one in self.elsewhere)
        return max(0, high - low - len(none) - sum(one.before(high) for one in late if one))
