"""Edits of an EncryptionConfiguration that a key's rotation needs. They keep comments and every other byte.

Bytes in, bytes out. Handled here: what each edit means, and the proof that the edited text means exactly that. Not
handled: positions in the text (`pieces`, `splice`), the file itself (`scheduler.rotation`), whether a step is safe.

Every edit takes the indexes of its entries, since several entries may name one resource. It changes all of them or
raises. Before an edited text is returned it is parsed again: it is the old configuration with this change and no other.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeVar

from kube_rewrap.config.editing import splice
from kube_rewrap.config.editing.pieces import BY_HAND, Path, Unsafe
from kube_rewrap.config.editing.splice import Tree
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, load
from kube_rewrap.config.encryption.provider import (
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.encryption.validate import KEY_LENGTHS
from kube_rewrap.config.errors import ConfigError, Fault

_Item = TypeVar("_Item")

_MARK = "\ufeff"


class EditError(ConfigError):
    """The edit is refused: it would be unsafe, or would need a guess about the text. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class _Change:
    """The change of one entry: the steps on the text, and the providers that the entry must then have."""

    steps: tuple[Callable[[str], str], ...]
    providers: tuple[Provider, ...]


_Plan = Callable[[tuple[Provider, ...], Path], _Change]
"""Providers of an entry, path of their list → change. Raises Unsafe."""


def add_read_key(raw: bytes, file: str, entries: Sequence[int], provider_type: ProviderType, key: Key) -> bytes:
    """Return the text with a key that reads and does not write yet.

    It becomes the second key of the first provider when that one is of its type; else the only key of a new provider
    after the first one. Raises EditError, also when the entry has the name or the key already, and what `load` raises.
    """
    if provider_type not in KEY_LENGTHS or len(key.secret) not in KEY_LENGTHS[provider_type] or not key.name:
        raise ValueError(f"not a valid key for {provider_type}")

    def plan(providers: tuple[Provider, ...], path: Path) -> _Change:
        for provider in _keyed(providers, provider_type):
            if any(key.name == other.name or key.secret == other.secret for other in provider.keys):
                raise _refused(path, "the entry already has the new key or its name", "take another key and name")
        first = providers[0]
        item: Tree = {"name": key.name, "secret": base64.b64encode(key.secret.reveal()).decode()}
        if isinstance(first, KeyedProvider) and first.type is provider_type:
            keys = (*path, 0, str(provider_type), "keys")
            wider = replace(first, keys=(first.keys[0], key, *first.keys[1:]))
            return _Change((lambda text: splice.insert_second(text, keys, item),), (wider, *providers[1:]))
        block: Tree = {str(provider_type): {"keys": [item]}}
        new = KeyedProvider(provider_type, (key,))
        return _Change((lambda text: splice.insert_second(text, path, block),), (first, new, *providers[1:]))

    return _edit(raw, file, entries, plan)


def add_read_kms(raw: bytes, file: str, providers: Mapping[int, KmsProvider]) -> bytes:
    """Return the text with a KMS v2 provider that reads and does not write yet, one for each entry, by its index.

    It becomes the second provider of its entry. One cannot serve two entries: kube-apiserver refuses a KMS v2 name that
    the file has twice. Raises EditError, also for a name that the entry has already, and what `load` raises.
    """
    if any(provider.api_version != "v2" for provider in providers.values()):
        raise ValueError("only KMS v2 is added")

    def plan(present: tuple[Provider, ...], path: Path) -> _Change:
        new = providers[int(path[1])]
        if any(isinstance(one, KmsProvider) and one.name == new.name for one in present):
            raise _refused(path, "the entry already has a KMS provider of this name", "take another name")
        timeout = f"{new.timeout_seconds:.9f}".rstrip("0").rstrip(".") + "s"
        stanza: Tree = {"apiVersion": "v2", "name": new.name, "endpoint": new.endpoint, "timeout": timeout}
        return _Change(
            (lambda text: splice.insert_second(text, path, {"kms": stanza}),), (present[0], new, *present[1:])
        )

    return _edit(raw, file, tuple(providers), plan)


def promote(raw: bytes, file: str, entries: Sequence[int], provider_type: ProviderType, key_name: str) -> bytes:
    """Return the text with that key as the primary: first of its provider, which is first of its entry.

    The whole provider moves, with its other keys. If the key is the primary already, the text is returned unchanged.
    A KMS provider counts as its only key. Raises EditError, also when no key or several keys of this type have the
    name, and what `load` raises.
    """

    def plan(providers: tuple[Provider, ...], path: Path) -> _Change:
        at, provider, index = _find_key(providers, path, provider_type, key_name)
        first: Provider = provider
        steps: list[Callable[[str], str]] = []
        if isinstance(provider, KeyedProvider):
            keys = (*path, at, str(provider_type), "keys")
            if index:
                steps.append(lambda text: splice.move_to_front(text, keys, index))
            first = replace(provider, keys=(provider.keys[index], *_without(provider.keys, index)))
        if at:
            steps.append(lambda text: splice.move_to_front(text, path, at))
        return _Change(tuple(steps), (first, *_without(providers, at)))

    return _edit(raw, file, entries, plan)


def drop_key(raw: bytes, file: str, entries: Sequence[int], provider_type: ProviderType, key_name: str) -> bytes:
    """Return the text without that key, and without its provider when it was the provider's only one.

    A KMS provider counts as its only key. Raises EditError, also for the primary and when no key or several keys of
    this type have the name, and what `load` raises. **Does not check whether objects still need the key.**
    """

    def plan(providers: tuple[Provider, ...], path: Path) -> _Change:
        at, provider, index = _find_key(providers, path, provider_type, key_name)
        if at == index == 0:
            raise _refused(path, "kube-apiserver writes with this key", "promote another key first")
        if isinstance(provider, KmsProvider) or len(provider.keys) == 1:
            return _Change((lambda text: splice.remove(text, path, at),), _without(providers, at))
        keys = (*path, at, str(provider_type), "keys")
        narrower = replace(provider, keys=_without(provider.keys, index))
        kept = (*providers[:at], narrower, *providers[at + 1 :])
        return _Change((lambda text: splice.remove(text, keys, index),), kept)

    return _edit(raw, file, entries, plan)


def drop_identity(raw: bytes, file: str, entries: Sequence[int]) -> bytes:
    """Return the text without `identity`, so that kube-apiserver does not read plaintext any more.

    Raises EditError, also when identity is the primary and when an entry does not list it, and what `load` raises.
    **Does not check whether objects are still stored as plaintext.**
    """

    def plan(providers: tuple[Provider, ...], path: Path) -> _Change:
        found = [at for at, provider in enumerate(providers) if isinstance(provider, IdentityProvider)]
        if not found:
            raise _refused(path, "there is no identity provider", "check which entries still have one")
        if found[0] == 0:
            raise _refused(path, "kube-apiserver writes with identity", "promote a key first")
        kept = tuple(provider for provider in providers if not isinstance(provider, IdentityProvider))
        # The last one first, so that the indexes before it stay valid.
        return _Change(tuple(_removal(path, at) for at in reversed(found)), kept)

    return _edit(raw, file, entries, plan)


def entries_naming(configuration: EncryptionConfiguration, resources: Iterable[GroupResource]) -> tuple[int, ...]:
    """Return the indexes of the entries that name one of the resources, as written: wildcards match only themselves."""
    wanted = set(resources)
    return tuple(
        index
        for index, entry in enumerate(configuration.entries)
        if wanted & {GroupResource.parse(name) for name in entry.resources}
    )


def new_key_name(existing: Iterable[str], today: date) -> str:
    """Return `key-YYYYMMDD`, followed by `-2`, `-3` … when that is taken.

    The part of an existing name before a colon is taken, too: what `a:b` encrypted begins with the prefix of `a`.
    """
    taken = {name[:end] for name in existing for end in (len(name), *_colons(name))}
    plain = f"key-{today:%Y%m%d}"
    numbered = (f"{plain}-{number}" for number in range(2, len(taken) + 3))
    return plain if plain not in taken else next(name for name in numbered if name not in taken)


# ------------------------------------------------------------------------------------------------------------ the edit


def _edit(raw: bytes, file: str, entries: Sequence[int], plan: _Plan) -> bytes:
    before = load(raw, file)
    if not set(entries) <= set(range(len(before.entries))) or not entries:
        raise ValueError("no such entry")
    refused: Fault
    try:
        edited, intended = _apply(raw, before, sorted(set(entries)), plan)
    except Unsafe as error:
        refused = error.fault
    else:
        return _proven(edited, file, intended)
    # Outside the handler, so that no error that holds the text is chained.
    raise EditError(file, (refused,))


def _apply(
    raw: bytes, before: EncryptionConfiguration, entries: Iterable[int], plan: _Plan
) -> tuple[bytes, EncryptionConfiguration]:
    text = _decoded(raw)
    mark = _MARK if text.startswith(_MARK) else ""
    text = text.removeprefix(mark)
    intended = list(before.entries)
    for index in entries:
        change = plan(intended[index].providers, ("resources", index, "providers"))
        for step in change.steps:
            text = step(text)
        intended[index] = replace(intended[index], providers=change.providers)
    return (mark + text).encode(), EncryptionConfiguration(tuple(intended))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass
    # Outside the handler: a UnicodeDecodeError holds the bytes.
    raise Unsafe((), "its text is not UTF-8")


def _proven(edited: bytes, file: str, intended: EncryptionConfiguration) -> bytes:
    """Return the text if it means exactly the intended configuration, else raise EditError."""
    try:
        right = load(edited, file) == intended
    except ConfigError:
        right = False
    if not right:
        raise EditError(file, (Fault("", "the edited text would have another meaning than the edit intends", BY_HAND),))
    return edited


def _find_key(
    providers: tuple[Provider, ...], path: Path, provider_type: ProviderType, key_name: str
) -> tuple[int, KeyedProvider | KmsProvider, int]:
    """Return the provider's index, the provider, and the key's index in it. Raises Unsafe unless exactly one fits."""
    found = [
        (at, provider, index)
        for at, provider in enumerate(providers)
        if not isinstance(provider, IdentityProvider) and provider.type is provider_type
        for index, name in enumerate(_names(provider))
        if name == key_name
    ]
    if not found:
        raise _refused(path, f"no {provider_type} key there has this name", "check name, provider and entry")
    if len(found) > 1:
        raise _refused(path, f"several {provider_type} keys there have this name", BY_HAND)
    return found[0]


def _names(provider: KeyedProvider | KmsProvider) -> tuple[str, ...]:
    return (provider.name,) if isinstance(provider, KmsProvider) else tuple(key.name for key in provider.keys)


def _keyed(providers: tuple[Provider, ...], provider_type: ProviderType) -> Iterator[KeyedProvider]:
    return (item for item in providers if isinstance(item, KeyedProvider) and item.type is provider_type)


def _without(items: tuple[_Item, ...], at: int) -> tuple[_Item, ...]:
    return (*items[:at], *items[at + 1 :])


def _removal(path: Path, at: int) -> Callable[[str], str]:
    return lambda text: splice.remove(text, path, at)


def _colons(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == ":"]


def _refused(path: Path, message: str, remedy: str) -> Unsafe:
    return Unsafe(path, message, remedy=remedy)
