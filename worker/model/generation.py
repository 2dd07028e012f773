"""What a generation of the configuration says, without its keys: which key writes, and which ones read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from worker.model.verdict import KeyRef


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One generation by its hash; each resource as the file spells it, wildcards included, with its chain.

    A chain names keys in the order in which they are tried; the first one writes. No chain is empty. KMS keys
    all have the fingerprint `kms`: that a KMS provider got another key behind its name is not seen here.
    """

    hash: str
    resources: tuple[tuple[str, tuple[KeyRef, ...]], ...]

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
                    "keys": [[key.provider, key.name, key.fingerprint] for key in chain],
                }
                for chain, alike in chains
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> GenerationRecord:
        """Read the JSON form. Raises ValueError where it is not one."""
        match value:
            case {"hash": str(content_hash), "chains": list(chains)}:
                return cls(content_hash, tuple(pair for chain in chains for pair in _chain(chain)))
        raise ValueError("not a generation")


def _chain(value: object) -> list[tuple[str, tuple[KeyRef, ...]]]:
    match value:
        case {"resources": list(resources), "keys": [_, *_] as keys}:
            chain = tuple(_key(key) for key in keys)
            return [(_name(resource), chain) for resource in resources]
    raise ValueError("a chain of a generation is a list of resources and one of keys")


def _name(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("a resource of a generation is a name")


def _key(value: object) -> KeyRef:
    match value:
        case [str(provider), str(name), str(fingerprint)]:
            return KeyRef(provider, name, fingerprint)
    raise ValueError("a key is a provider, a name and a fingerprint")
