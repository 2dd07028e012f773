"""The provider chains of one generation, and what its record says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.generation import GenerationRecord


class Chains(Mapping[str, Chain]):
    """The provider chain of each resource by its name, created at first access.

    Raises KeyError for a resource that the configuration does not govern.
    """

    def __init__(self, generation: Generation, targets: Mapping[str, str] | None = None) -> None:
        """`targets` as in `Chain`."""
        self._configuration = generation.configuration
        self._targets = targets
        self._made: dict[str, Chain] = {}
        self._late_plaintext: frozenset[str] = frozenset()

    def quarantine_late(self, resources: frozenset[str]) -> None:
        """Make the chains of these resources, and of no others, quarantine plaintext as late."""
        if resources != self._late_plaintext:
            self._late_plaintext = resources
            self._made = {}

    def __getitem__(self, resource: str) -> Chain:
        if resource not in self._made:
            providers = self._configuration.providers_for(GroupResource.parse(resource))
            if providers is None:
                raise KeyError(resource)
            self._made[resource] = Chain(
                providers, plaintext_is_late=resource in self._late_plaintext, targets=self._targets
            )
        return self._made[resource]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def describe(generation: Generation) -> GenerationRecord:
    """Return the keys of each configured name in the file's order, without their material."""
    chains = Chains(generation, generation.targets)
    names = generation.configuration.resource_names()
    return GenerationRecord(
        generation.hash,
        tuple((name, chains[name].described) for name in names),
        generation.file_hash,
        tuple(sorted(dict.fromkeys(map(_socket_of, generation.kms_providers)), key=lambda socket: socket[0])),
    )


def _socket_of(provider: KmsProvider) -> tuple[str, str]:
    """Return the name of a KMS provider with its version, and a hash of its plugin's address."""
    socket = provider.address.socket or provider.endpoint
    return f"{provider.api_version}:{provider.name}", hashlib.sha256(socket.encode()).hexdigest()[:16]
