"""Validates a draft by kube-apiserver's rules about values, and yields every fault.

Follows apiserver: pkg/apis/apiserver/validation/validation_encryption.go, and for masked entries
pkg/server/options/encryptionconfig/config.go. Two things depend on flags of kube-apiserver and are accepted here:
KMS v1 (feature gate KMSv1) and, without automatic reload, two KMS v1 providers of one name.
No message shows a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.encryption.resources import ANY, GroupResource
from kube_rewrap.config.parsing.golang import decode_base64, url_scheme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kube_rewrap.config.encryption.draft import (
        Draft,
        DraftEntry,
        DraftKey,
        DraftKeyed,
        DraftKms,
        DraftProvider,
        Place,
        Text,
    )
    from kube_rewrap.config.errors import Fault

LEGACY_KIND = "EncryptionConfig"
KIND = "EncryptionConfiguration"
GROUP_VERSION = "apiserver.config.k8s.io/v1"

KEY_LENGTHS = {
    ProviderType.AESCBC: (16, 24, 32),
    ProviderType.AESGCM: (16, 24, 32),
    ProviderType.SECRETBOX: (32,),
}
"""Bytes, by provider: crypto/aes and nacl/secretbox."""

_WITHOUT_API = {"apiserveripinfo", "serviceipallocations", "servicenodeportallocations"}


def _across_groups(name: str) -> bool:
    parsed = GroupResource.parse(name)
    return parsed.group == "*" and not parsed.is_wildcard


# (whether a name breaks the rule, message, remedy), in upstream's order.
_NAME_RULES: tuple[tuple[Callable[[str], bool], str, str], ...] = (
    (lambda name: name.lower() != name, "a resource name has no capital letters", "write it in lower case"),
    (lambda name: name == "*", "* alone is no wildcard", 'write "*." for the core group or "*.*" for everything'),
    (_WITHOUT_API.__contains__, "this resource has no REST API and can't be encrypted", "remove it"),
    (
        lambda name: GroupResource.parse(name).group == "events.k8s.io",
        "events are stored under the core group",
        "write events",
    ),
    (
        lambda name: GroupResource.parse(name).group == "extensions",
        "the group extensions has been removed",
        "write the resource with its present group",
    ),
    (_across_groups, "one resource across all groups is not supported", "name the group"),
)


def validate(draft: Draft) -> Iterator[Fault]:
    """Yield every fault of a draft, file order within each rule."""
    yield from _kind(draft)
    if not draft.entries:
        yield draft.entries_place.fault("at least one entry is required", "add an entry with resources and providers")
    kms_names: set[str] = set()
    for entry in draft.entries:
        yield from _resources(entry)
        yield from _providers(entry, kms_names)
    yield from _masked(draft)


def validate_provider(draft: Draft) -> Iterator[Fault]:
    """Yield every fault of the only provider of a draft that `decode_provider` returned."""
    yield from _providers(draft.entries[0], set())


def is_encryption_kind(draft: Draft) -> bool:
    """Whether the document has the kind of an EncryptionConfiguration, in any version."""
    return draft.kind.value in {KIND, LEGACY_KIND}


def _kind(draft: Draft) -> Iterator[Fault]:
    kind, version = draft.kind, draft.api_version
    modern = f"write apiVersion: {GROUP_VERSION} and kind: {KIND}"
    if not kind.value:
        yield kind.place.fault("the kind is missing", modern)
    elif not is_encryption_kind(draft):
        yield kind.place.fault(f"the kind is not {KIND}", modern)
    if not version.value:
        yield version.place.fault("the version is missing", modern)
    elif kind.value == KIND and version.value != GROUP_VERSION:
        yield version.place.fault(f"{KIND} does not exist in this version", modern)
    # Go splits "/v1" into the empty group and v1, the legacy pair's own version.
    elif kind.value == LEGACY_KIND and version.value not in {"v1", "/v1"}:
        yield version.place.fault(f"{LEGACY_KIND}, the legacy kind, exists in apiVersion v1 only", modern)


def _resources(entry: DraftEntry) -> Iterator[Fault]:
    if not entry.resources:
        yield entry.resources_place.fault("at least one resource is required", "name one, such as secrets")
    names = [GroupResource.parse(text.value) for text in entry.resources]
    if len(set(names)) < len(names):
        yield entry.resources_place.fault("the same resource is in the list twice", "keep it once")
    if _overlap(names):
        yield entry.resources_place.fault(
            "a wildcard and a resource that it covers are in one list",
            "move the specific resource into an entry of its own in front of this one",
        )
    for text in entry.resources:
        yield from _resource_name(text)


def _overlap(names: list[GroupResource]) -> bool:
    different = set(names)
    if ANY in different and len(different) > 1:
        return True
    wild_groups = {name.group for name in different if name.resource == "*"}
    return any(name.resource != "*" and name.group in wild_groups for name in different)


def _resource_name(text: Text) -> Iterator[Fault]:
    """Yield the fault of the first rule that a name breaks; upstream stops there, too."""
    for is_broken, message, remedy in _NAME_RULES:
        if is_broken(text.value):
            yield text.place.fault(message, remedy)
            return


def _providers(entry: DraftEntry, kms_names: set[str]) -> Iterator[Fault]:
    if not entry.providers:
        yield entry.providers_place.fault("at least one provider is required", "add one; identity: {} for plaintext")
    for provider in entry.providers:
        yield from _single(provider)
        if provider.kms is not None:
            yield from _kms(provider.kms, kms_names)
            kms_names.add(provider.kms.name.value)
        for keyed in provider.keyed:
            yield from _keys(keyed)


def _single(provider: DraftProvider) -> Iterator[Fault]:
    if provider.count == 0:
        yield provider.place.fault("the element holds no provider", f"write one of {', '.join(ProviderType)}")
    elif provider.count > 1:
        yield provider.place.fault(
            "more than one provider in one list element", "start each provider with a dash of its own"
        )


def _keys(keyed: DraftKeyed) -> Iterator[Fault]:
    if not keyed.keys:
        yield keyed.place.fault("at least one key is required", f"generate one with: rewrap keygen {keyed.type}")
    for key in keyed.keys:
        yield from _key(key, keyed.type)


def _key(key: DraftKey, kind: ProviderType) -> Iterator[Fault]:
    generate = f"generate one with: rewrap keygen {kind}"
    if not key.name.value:
        yield key.name.place.fault("the name is mandatory", "give the key a name that no other key had")
    if not key.secret.value:
        yield key.secret.place.fault("the secret is mandatory", generate)
        return
    secret = decode_base64(key.secret.value)
    if secret is None:
        yield key.secret.place.fault(
            "the secret is not standard base64 with padding", f"encode the key with base64, or {generate}"
        )
    elif len(secret) not in KEY_LENGTHS[kind]:
        wanted = " or ".join(str(length) for length in KEY_LENGTHS[kind])
        yield key.secret.place.fault(f"the secret decodes to {len(secret)} bytes, {wanted} are needed", generate)


def _kms(kms: DraftKms, taken: set[str]) -> Iterator[Fault]:
    yield from _kms_name(kms, taken)
    if kms.timeout_nanoseconds <= 0:
        yield kms.timeout_place.fault("the timeout must be positive", "write timeout: 3s, or leave it out")
    yield from _endpoint(kms.endpoint)
    yield from _cache_size(kms)
    if kms.api_version.value not in {"v1", "v2"}:
        yield kms.api_version.place.fault("KMS providers exist in v1 and v2 only", "write apiVersion: v2")


def _kms_name(kms: DraftKms, taken: set[str]) -> Iterator[Fault]:
    name = kms.name
    if not name.value:
        yield name.place.fault("the name is mandatory", "give the provider a name that no other KMS provider has")
    if kms.api_version.value == "v1":
        return
    if ":" in name.value:
        yield name.place.fault("the name of a KMS v2 provider must have no colon", "choose a name without a colon")
    if name.value in taken:
        yield name.place.fault("an earlier KMS provider has this name", "choose another name")


def _endpoint(endpoint: Text) -> Iterator[Fault]:
    remedy = "write the plugin's socket: endpoint: unix:///run/kms.sock"
    if not endpoint.value:
        yield endpoint.place.fault("the endpoint is mandatory", remedy)
        return
    scheme = url_scheme(endpoint.value)
    if scheme is None:
        yield endpoint.place.fault("the endpoint is not a URL", remedy)
    elif scheme != "unix":
        yield endpoint.place.fault("only unix sockets are supported", remedy)


def _cache_size(kms: DraftKms) -> Iterator[Fault]:
    if kms.api_version.value != "v1" and kms.cache_size is not None:
        yield kms.cache_size_place.fault("KMS v2 has no cachesize", "remove it")
    if kms.api_version.value == "v1" and kms.cache_size == 0:
        yield kms.cache_size_place.fault("cachesize must not be zero", "write a positive number, or -1 for no cache")


def _masked(draft: Draft) -> Iterator[Fault]:
    """Yield a fault for each name that an earlier entry's wildcard covers: kube-apiserver would never use its entry."""
    wildcards: dict[GroupResource, Place] = {}
    for entry in draft.entries:
        named = [(GroupResource.parse(text.value), text.place) for text in entry.resources]
        for name, place in named:
            by = wildcards.get(GroupResource("*", name.group)) or wildcards.get(ANY)
            if by is not None:
                yield place.fault(
                    f"masked by the wildcard at {by.path}, which comes earlier",
                    "move this entry in front of the one with the wildcard",
                )
        # Only after the whole list: `_resources` reports overlaps inside one list.
        for name, place in named:
            if name.resource == "*":
                wildcards.setdefault(name, place)
