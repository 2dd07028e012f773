"""A gap of the watch: revisions that etcd compacted before the watch had received them. Arithmetic only.

Each revision of a gap counts as a write under the key, unless what etcd still holds proves that it was none:

- kube-apiserver and rewrap write one object per transaction, so each write has a revision of its own, and no key
  made more writes than the gap has revisions.
- etcd keeps an object's creation revision, its last write's revision, and its number of writes (`version`). The
  stored value shows the key of the last write. If the object is not encrypted and was created within the gap, all its
  writes are in the gap, and none was under a key; if it is older, only its last write is known to be there.
- etcd also keeps the creation and last write of rewrap's own records. One transaction may write several records, so
  their versions don't add up. The observer's record names the revisions of its own former versions.
- The watch has already counted the writes before its place in another range.

The versions of encrypted objects prove nothing, nor does the absence of writes since. An object that was created, or
rewritten, and deleted within the gap leaves only its revisions, so each unexplained revision may be a write under any
key in the range. A range was quiet if every revision is explained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kube_rewrap.worker.records.budget import Landed


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What etcd still shows of the revisions from `first` (included) to `end` (excluded).

    `keys`: by revision, the fingerprints of the keys under which that write may have been made; an empty set if
    under none. `resources`: by revision, the governed resource of the object written. `unencrypted`: further writes of
    objects that are not encrypted.
    """

    first: int
    end: int
    keys: Mapping[int, frozenset[str]] = field(default_factory=dict)
    resources: Mapping[int, str] = field(default_factory=dict)
    unencrypted: tuple[Landed, ...] = ()

    def most(self, fingerprint: str, low: int, high: int, seen: Collection[int] = ()) -> int:
        """Return an upper bound of the writes under a key from `low` to before `high`, without the revisions `seen`.

        Both bounds are within the gap.
        """
        none = {at for at, keys in self.keys.items() if low <= at < high and fingerprint not in keys}
        none.update(at for at in seen if low <= at < high)
        late = (one.since(low) for one in self.unencrypted)
        return max(0, high - low - len(none) - sum(one.before(high) for one in late if one))
