"""A generation of the EncryptionConfiguration without key material: which key writes each resource, which ones read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated

from kube_rewrap.config.encryption.resources import ANY, GroupResource
from kube_rewrap.worker.fields import Fields, members_of, text_of
from kube_rewrap.worker.records.form import Flat, Form, Later, Most, Named, Text
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

_FORMER = 200
"""Hashes that a history keeps; a record with as many is far below etcd's request limit."""


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One generation by its hash, with the chain of each resource, spelled as in the file, wildcards included.

    A chain names keys in the order in which they are tried; the first one writes. No chain is empty. `KeyRef` has the
    forms in which KMS providers are named here. `file` is the hash of the file, "" = equal to `hash`, as in records of
    earlier versions. `sockets` are the KMS providers, as `v2:name`, each with a hash of its plugin's address; those of
    one name in the file's order.
    """

    hash: str
    resources: tuple[tuple[str, tuple[KeyRef, ...]], ...]
    file: str = ""
    sockets: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Fill `file`."""
        object.__setattr__(self, "file", self.file or self.hash)

    def sockets_of(self, key: KeyRef) -> tuple[str, ...]:
        """Return the hashes of the addresses of a KMS provider's plugins, none where they are not known."""
        name = f"{key.version.partition('#')[0]}:{key.name}"
        return tuple(socket for provider, socket in self.sockets if provider == name)

    def reads_plaintext(self, resource: str) -> bool:
        """Whether the chain that governs a resource reads plaintext and writes none."""
        chains = {GroupResource.parse(name): keys for name, keys in self.resources}
        name = GroupResource.parse(resource)
        governing = (name, GroupResource("*", name.group), ANY)
        chain = next((chains[one] for one in governing if one in chains), ())
        return PLAINTEXT_FINGERPRINT in {key.fingerprint for key in chain[1:]} - {key.fingerprint for key in chain[:1]}

    def to_json(self) -> dict[str, object]:
        """Return the JSON form. It holds no secret.

        Adjacent resources with equal chains share one: the record of a file that names many resources in one entry
        stays far below etcd's request limit.
        """
        chains = groupby(self.resources, key=lambda one: one[1])
        return {
            "hash": self.hash,
            **({"file": self.file} if self.file != self.hash else {}),
            **({"sockets": [list(pair) for pair in self.sockets]} if self.sockets else {}),
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
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(
            fields.text("hash"),
            tuple(pair for chain in fields.each("chains", _chain) for pair in chain),
            # Absent where the file has no KMS provider, and in records of earlier versions.
            fields.text("file") if fields.has("file") else "",
            fields.each("sockets", _socket) if fields.has("sockets") else (),
        )


@dataclass(frozen=True, slots=True)
class History(Form):
    """The generation in force, and the hashes of the generations before it and of their files (`former`).

    The newest are the last. With `former` a new leader that reads an old copy of the file recognises it. Otherwise it
    would take the old copy for a change, and rewrap every object back to the old key. `late_plaintext`: the resources
    whose plaintext was late already when this generation came into force (`generations.late_plaintext`).
    """

    generation: Flat[GenerationRecord]
    former: Later[Annotated[tuple[Text, ...], Most(_FORMER)]] = ()
    late_plaintext: Annotated[Later[frozenset[Text]], Named(former="settled")] = frozenset()

    def followed_by(self, generation: GenerationRecord, late_plaintext: frozenset[str] = frozenset()) -> History:
        """Return the history with a newer generation in force."""
        ended = self.generation
        names = (*self.former, ended.hash, ended.file)
        kept = [name for name in names if name not in {generation.hash, generation.file}]
        return replace(
            self, generation=generation, former=tuple(dict.fromkeys(kept))[-_FORMER:], late_plaintext=late_plaintext
        )


def _socket(value: object) -> tuple[str, str]:
    provider, socket = members_of(value, "a KMS provider", 2)
    return text_of(provider, "a KMS provider"), text_of(socket, "a hash")


def _chain(value: object) -> list[tuple[str, tuple[KeyRef, ...]]]:
    fields = Fields.of(value)
    chain = fields.each("keys", KeyRef.from_json)
    if not chain:
        raise ValueError("a chain has no keys")
    return [(resource, chain) for resource in fields.texts("resources")]
