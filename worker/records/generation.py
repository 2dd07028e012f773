"""What a generation of the configuration says, without its keys: which key writes, and which ones read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from kube_rewrap.config.encryption.resources import ANY, GroupResource
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

_FORMER = 200
"""Hashes that are remembered; a record with as many is far below what etcd takes."""


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One generation by its hash; each resource as the file spells it, wildcards included, with its chain.

    A chain names keys in the order in which they are tried; the first one writes. No chain is empty. KMS keys
    all have the fingerprint `kms`: that a KMS provider got another key behind its name is not seen here.
    """

    hash: str
    resources: tuple[tuple[str, tuple[KeyRef, ...]], ...]

    def reads_plaintext(self, resource: str) -> bool:
        """Whether what governs a resource reads plaintext and writes none."""
        chains = {GroupResource.parse(name): keys for name, keys in self.resources}
        name = GroupResource.parse(resource)
        governing = (name, GroupResource("*", name.group), ANY)
        chain = next((chains[one] for one in governing if one in chains), ())
        return PLAINTEXT_FINGERPRINT in {key.fingerprint for key in chain[1:]} - {key.fingerprint for key in chain[:1]}

    def to_json(self) -> dict[str, object]:
        """Return the JSON form. It holds no secret.

        Neighbours with one chain share it: a file that names many resources in one entry stays far below
        what etcd takes.
        """
        chains = groupby(self.resources, key=lambda one: one[1])
        return {
            "hash": self.hash,
            "chains": [
                {
                    "resources": [name for name, _ in alike],
                    "keys": [key.to_json() for key in chain],
                }
                for chain, alike in chains
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> GenerationRecord:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        return cls(fields.text("hash"), tuple(pair for chain in fields.each("chains", _chain) for pair in chain))


@dataclass(frozen=True, slots=True)
class History:
    """The generation in force, and the hashes of those that were in force before and are not now, the newest last.

    `settled`: the resources whose plaintext was late already when this one came into force (`generations.settled`).
    A scheduler that comes to lead with an old copy of the file would otherwise take it for a change, and bring every
    object back under the old key.
    """

    generation: GenerationRecord
    former: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()

    def followed_by(self, generation: GenerationRecord, settled: frozenset[str] = frozenset()) -> History:
        """Return the history with a newer generation in force."""
        kept = [name for name in (*self.former, self.generation.hash) if name != generation.hash]
        return replace(self, generation=generation, former=tuple(dict.fromkeys(kept))[-_FORMER:], settled=settled)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {**self.generation.to_json(), "former": list(self.former), "settled": sorted(self.settled)}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> History:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        # What a record of an earlier version does not have.
        former = fields.texts("former", _FORMER) if fields.has("former") else ()
        settled = fields.texts("settled") if fields.has("settled") else ()
        return cls(GenerationRecord.from_json(value), former, frozenset(settled))


def _chain(value: object) -> list[tuple[str, tuple[KeyRef, ...]]]:
    fields = Fields.of(value)
    chain = fields.each("keys", KeyRef.from_json)
    if not chain:
        raise ValueError("a chain has no keys")
    return [(resource, chain) for resource in fields.texts("resources")]
