"""`rewrap check [FILE]`: whether kube-apiserver would run this configuration, and its providers by resource."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TypedDict

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import generation_of, read_file_argument, read_settings
from kube_rewrap.cli.output import print_json, print_table, say
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.provider import IdentityProvider, KeyedProvider, KmsProvider, Provider
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.errors import ConfigError


class _Key(TypedDict):
    provider: str
    key: str
    fingerprint: str


class _ReadKey(_Key):
    primary: bool


class _Resource(TypedDict):
    resource: str
    providers: list[_ReadKey]


class _Warning(TypedDict):
    resource: str
    message: str
    remedy: str


def run(args: argparse.Namespace) -> int:
    """Print the verdict; every fault at once. Exit 2 when kube-apiserver would refuse the file.

    Warnings are what kube-apiserver accepts and an operator hardly wants: a name that governs no resource, so that the
    intended one stays plaintext; a KMS endpoint that does not connect as written; KMS v1.
    """
    keyspace = read_settings(args, os.environ).keyspace
    path = read_file_argument(args, os.environ)
    try:
        generation = generation_of(path, allow_readable=args.allow_readable_config)
    except ConfigError as error:
        if args.output != "json":
            raise
        errors = [fault.to_json() for fault in error.faults]
        print_json({"ok": False, "file": path, "errors": errors, "warnings": [], "resources": []})
        return Exit.USAGE
    resources = _resources(generation.configuration)
    warnings = _warnings(generation.configuration, Layout.from_texts(keyspace.etcd_prefix, keyspace.paths))
    if args.output == "json":
        found = {"errors": [], "warnings": warnings, "resources": resources}
        print_json({"ok": True, "file": path, "hash": generation.file_hash, **found})
    else:
        _print_text(path, generation.file_hash, resources, warnings)
    return Exit.DONE


def _resources(configuration: EncryptionConfiguration) -> list[_Resource]:
    """Return each resource with the keys that read it, in the order in which kube-apiserver tries them."""
    found: list[_Resource] = []
    for name in configuration.resource_names():
        providers = configuration.providers_for(GroupResource.parse(name)) or ()
        keys = [key for provider in providers for key in _keys(provider)]
        found.append(
            {"resource": name, "providers": [{**key, "primary": place == 0} for place, key in enumerate(keys)]}
        )
    return found


def _warnings(configuration: EncryptionConfiguration, layout: Layout) -> list[_Warning]:
    """Return what kube-apiserver accepts and an operator hardly wants, each with the reason."""
    return _idle(configuration, layout) + _of_plugins(configuration)


def _of_plugins(configuration: EncryptionConfiguration) -> list[_Warning]:
    """Return the KMS endpoints that don't connect as written, and the KMS v1 stanzas."""
    return [
        {"resource": ",".join(entry.resources), "message": message, "remedy": remedy}
        for entry in configuration.entries
        for provider in entry.providers
        if isinstance(provider, KmsProvider)
        for message, remedy in _doubts(provider)
    ]


def _doubts(provider: KmsProvider) -> Iterator[tuple[str, str]]:
    """Yield (message, remedy) of each doubt about a KMS stanza that kube-apiserver's validation accepts."""
    if provider.address.warning:
        yield (
            f"use KMS provider {provider.name!r}: {provider.address.warning}",
            "write three slashes and the path: unix:///run/kms.sock, or unix:///@name",
        )
    if provider.api_version == "v1":
        yield (
            f"use KMS provider {provider.name!r} of v1, which kube-apiserver 1.29 and later refuse by default",
            "move to v2, or keep --feature-gates=KMSv1=true on every kube-apiserver",
        )


def _idle(configuration: EncryptionConfiguration, layout: Layout) -> list[_Warning]:
    """Return the names that govern no resource, each with the reason."""
    return [
        {"resource": name, "message": f"governs nothing: {why[0]}", "remedy": why[1]}
        for name in configuration.resource_names()
        if (why := layout.why_idle(GroupResource.parse(name))) is not None
    ]


def _keys(provider: Provider) -> list[_Key]:
    match provider:
        case KeyedProvider(type=kind, keys=keys):
            return [
                {"provider": kind.value, "key": key.name, "fingerprint": key.secret.fingerprint(kind.value)}
                for key in keys
            ]
        case KmsProvider(name=name, api_version=version):
            return [{"provider": "kms", "key": name, "fingerprint": version}]
        case IdentityProvider():
            return [{"provider": "identity", "key": "", "fingerprint": "-"}]


def _print_text(path: str, content_hash: str, resources: list[_Resource], warnings: list[_Warning]) -> None:
    say(f"{path}: kube-apiserver accepts it")
    say(content_hash)
    say()
    idle = {warning["resource"] for warning in warnings if warning["message"].startswith("governs nothing")}
    rows = [
        (resource["resource"], key["provider"], key["key"], key["fingerprint"], _use(key, resource["resource"] in idle))
        for resource in resources
        for key in resource["providers"]
    ]
    print_table(("RESOURCE", "PROVIDER", "KEY", "FINGERPRINT", ""), rows)
    for warning in warnings:
        say(f"Warning: {warning['resource']} {warning['message']}; {warning['remedy']}")


def _use(key: _ReadKey, is_idle: bool) -> str:
    if is_idle:
        return "governs nothing"
    return "writes" if key["primary"] else "reads"
