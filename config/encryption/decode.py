"""Decodes a plain tree to a draft, as strictly as kube-apiserver: no unknown or duplicate fields, no wrong types.

Handled here: names, types, null, defaults. Not handled: whether the values are valid (`validate`).
After a fault it continues with Go's zero value, so that the operator sees all faults of the file at once.
Follows sigs.k8s.io/json UnmarshalStrict and apimachinery: pkg/runtime/serializer/json/json.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.parsing.golang import parse_duration
from kube_rewrap.config.parsing.node import Field, Node, NodeKind

if TYPE_CHECKING:
    from kube_rewrap.config.errors import Fault

_KEYED = (ProviderType.AESGCM, ProviderType.AESCBC, ProviderType.SECRETBOX)
_DEFAULT_TIMEOUT = 3_000_000_000
_DEFAULT_CACHE_SIZE = 1000
_INTEGER = re.compile(r"-?[0-9]{1,10}")
_INT32 = range(-(2**31), 2**31)

# A field name is shown only if it looks like one. Twenty characters of base64 are less than the shortest key,
# and a key that lost its `secret:` becomes a field name.
_SHOWABLE = re.compile(r"[A-Za-z]?[a-z]+(?:[-_A-Z][a-z]+)*[0-9]{0,3}")
_SHOWABLE_LENGTH = 20
_HIDDEN = "<name not shown>"


@dataclass(slots=True)
class Decoded:
    """A draft, and the faults of its names and types."""

    draft: Draft
    faults: list[Fault]
    broken: set[str]
    """Paths whose value was replaced by a zero value: `validate` would report them a second time."""


@dataclass(slots=True)
class _Report:
    faults: list[Fault] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def mismatch(self, place: Place, found: NodeKind, wanted: str) -> None:
        """Report a value of the wrong type, without the value."""
        remedy = f"write a {wanted}"
        if wanted == "string" and found in {NodeKind.BOOL, NodeKind.INT, NodeKind.FLOAT}:
            name = place.path.rpartition(".")[2]
            remedy = f'put quotes around the value, as in {name}: "1"'
        message = f"it must be a {wanted} and is {found.described}"
        if found is NodeKind.BOOL:
            message += " (without quotes, YAML reads yes, no, on, off, y and n as true or false)"
        self.faults.append(place.fault(message, remedy))
        self.broken.add(place.path)


def decode(root: Node) -> Decoded:
    """Return the draft of a document with every fault of names and types. Raises nothing."""
    report = _Report()
    place = Place("", root.line)
    fields = _struct(root, place, ("apiVersion", "kind", "resources"), report)
    entries_place, entries = _list(fields, place, "resources", report)
    draft = Draft(
        api_version=_string(fields, place, "apiVersion", report),
        kind=_string(fields, place, "kind", report),
        entries=tuple(_entry(node, at, report) for node, at in entries),
        entries_place=entries_place,
    )
    return Decoded(draft, report.faults, report.broken)


def decode_provider(root: Node) -> Decoded:
    """Return the draft of a document that is one element of `providers`, alone in one entry. Raises nothing."""
    report = _Report()
    place = Place("", root.line)
    entry = DraftEntry((), place, (_provider(root, place, report),), place)
    nothing = Text("", place)
    return Decoded(Draft(nothing, nothing, (entry,), place), report.faults, report.broken)


def _entry(node: Node, place: Place, report: _Report) -> DraftEntry:
    fields = _struct(node, place, ("resources", "providers"), report)
    resources_place, resources = _list(fields, place, "resources", report)
    providers_place, providers = _list(fields, place, "providers", report)
    return DraftEntry(
        resources=tuple(_text(item, at, report) for item, at in resources),
        resources_place=resources_place,
        providers=tuple(_provider(item, at, report) for item, at in providers),
        providers_place=providers_place,
    )


def _provider(node: Node, place: Place, report: _Report) -> DraftProvider:
    before = len(report.faults)
    fields = _struct(node, place, tuple(ProviderType), report)
    if not fields and len(report.faults) > before:
        # An element with a misspelt provider must not be reported as one without a provider, too.
        report.broken.add(place.path)
    kms = fields.get(ProviderType.KMS)
    identity = fields.get(ProviderType.IDENTITY)
    if identity is not None:
        _struct(identity.value, _at(place, identity), (), report)
    return DraftProvider(
        place=place,
        kms=None if kms is None else _kms(kms.value, _at(place, kms), report),
        keyed=tuple(_keyed(kind, fields[kind], place, report) for kind in _KEYED if kind in fields),
        identity=identity is not None,
    )


def _keyed(kind: ProviderType, found: Field, parent: Place, report: _Report) -> DraftKeyed:
    place = _at(parent, found)
    fields = _struct(found.value, place, ("keys",), report)
    keys_place, keys = _list(fields, place, "keys", report)
    if place.path in report.broken:
        report.broken.add(keys_place.path)
    return DraftKeyed(kind, tuple(_key(node, at, report) for node, at in keys), keys_place)


def _key(node: Node, place: Place, report: _Report) -> DraftKey:
    fields = _struct(node, place, ("name", "secret"), report)
    if place.path in report.broken:
        report.broken.update((place.child("name").path, place.child("secret").path))
    return DraftKey(_string(fields, place, "name", report), _string(fields, place, "secret", report))


def _kms(node: Node, place: Place, report: _Report) -> DraftKms:
    fields = _struct(node, place, ("apiVersion", "name", "cachesize", "endpoint", "timeout"), report)
    if place.path in report.broken:
        report.broken.update(place.child(name).path for name in ("name", "endpoint"))
    version = _string(fields, place, "apiVersion", report)
    if not version.value:
        version = Text("v1", version.place)
    cache_size, cache_size_place = _int32(fields, place, "cachesize", report)
    if cache_size is None and version.value == "v1":
        cache_size = _DEFAULT_CACHE_SIZE
    timeout, timeout_place = _duration(fields, place, "timeout", report)
    return DraftKms(
        api_version=version,
        name=_string(fields, place, "name", report),
        endpoint=_string(fields, place, "endpoint", report),
        timeout_nanoseconds=_DEFAULT_TIMEOUT if timeout is None else timeout,
        timeout_place=timeout_place,
        cache_size=cache_size,
        cache_size_place=cache_size_place,
    )


def _struct(node: Node, place: Place, known: tuple[str, ...], report: _Report) -> dict[str, Field]:
    """Return the known fields that are not null, by name. Null is an empty struct, as in Go."""
    if node.kind is NodeKind.NULL:
        return {}
    if node.kind is not NodeKind.MAPPING:
        report.mismatch(place, node.kind, "mapping")
        return {}
    seen: set[str] = set()
    fields: dict[str, Field] = {}
    for found in node.fields:
        if found.name not in known:
            report.faults.append(_unknown(found, place, known))
            continue
        if found.name in seen:
            report.faults.append(
                _at(place, found).fault("the field is set twice", "keep one of the two; merge keys (<<) count as well")
            )
        seen.add(found.name)
        if found.value.kind is not NodeKind.NULL:
            fields[found.name] = found
        else:
            fields.pop(found.name, None)
    return fields


def _unknown(found: Field, place: Place, known: tuple[str, ...]) -> Fault:
    meant = next((name for name in known if name.casefold() == found.name.casefold()), None)
    if meant is not None:
        remedy = f"write {meant}: field names are case-sensitive"
    elif known:
        remedy = f"remove it; the fields known here are {', '.join(known)}"
    else:
        remedy = "remove it; no field is known here"
    shown = meant is not None or (len(found.name) <= _SHOWABLE_LENGTH and _SHOWABLE.fullmatch(found.name))
    at = Place(place.child(found.name if shown else _HIDDEN).path, found.line or place.line)
    return at.fault("unknown field" if shown else "unknown field, perhaps a value without its name", remedy)


def _list(fields: dict[str, Field], place: Place, name: str, report: _Report) -> tuple[Place, list[tuple[Node, Place]]]:
    """Return the place of a list field and its elements with theirs."""
    found = fields.get(name)
    if found is None:
        return place.child(name), []
    at = _at(place, found)
    if found.value.kind is not NodeKind.SEQUENCE:
        report.mismatch(at, found.value.kind, "list")
        return at, []
    return at, [(node, at.item(index, node.line)) for index, node in enumerate(found.value.items)]


def _string(fields: dict[str, Field], place: Place, name: str, report: _Report) -> Text:
    found = fields.get(name)
    return Text("", place.child(name)) if found is None else _text(found.value, _at(place, found), report)


def _text(node: Node, place: Place, report: _Report) -> Text:
    if node.kind is NodeKind.STRING:
        return Text(node.text, place)
    if node.kind is not NodeKind.NULL:
        report.mismatch(place, node.kind, "string")
    return Text("", place)


def _int32(fields: dict[str, Field], place: Place, name: str, report: _Report) -> tuple[int | None, Place]:
    found = fields.get(name)
    if found is None:
        return None, place.child(name)
    at = _at(place, found)
    node = found.value
    # By its text, not by its kind: YAML's 1e3 reaches Go's decoder as 1000.
    if node.kind in {NodeKind.INT, NodeKind.FLOAT} and _INTEGER.fullmatch(node.text) and int(node.text) in _INT32:
        return int(node.text), at
    if node.kind is NodeKind.INT:
        report.faults.append(at.fault("the number does not fit into 32 bits", "write a smaller number"))
        report.broken.add(at.path)
    else:
        report.mismatch(at, node.kind, "whole number")
    return None, at


def _duration(fields: dict[str, Field], place: Place, name: str, report: _Report) -> tuple[int | None, Place]:
    found = fields.get(name)
    if found is None:
        return None, place.child(name)
    at = _at(place, found)
    if found.value.kind is not NodeKind.STRING:
        report.faults.append(
            at.fault(
                f"it must be a duration and is {found.value.kind.described}", f"write it with its unit: {name}: 3s"
            )
        )
        report.broken.add(at.path)
        return None, at
    value = parse_duration(found.value.text)
    if value is None:
        report.faults.append(at.fault("it is not a duration", f"write a number and a unit: {name}: 3s"))
        report.broken.add(at.path)
    return value, at


def _at(place: Place, found: Field) -> Place:
    """Return the place of a known field that the file has."""
    at = place.child(found.name)
    return at if found.line is None else Place(at.path, found.line)
