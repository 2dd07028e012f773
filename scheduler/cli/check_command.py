"""`rewrap check [FILE]`: whether kube-apiserver would run this configuration, and what it says."""

from __future__ import annotations

import argparse
import os
from typing import TypedDict

from config.encryption import EncryptionConfiguration
from config.errors import ConfigError, Fault, SettingsError
from config.flags import variable
from config.provider import IdentityProvider, KeyedProvider, KmsProvider, Provider
from config.resources import GroupResource
from scheduler.cli.exits import Exit
from scheduler.cli.installation import require_own_packages
from scheduler.cli.options import add_configuration, add_output, generation_of
from scheduler.cli.output import print_json, print_table, say


class _Key(TypedDict):
    provider: str
    key: str
    fingerprint: str


class _ReadKey(_Key):
    primary: bool


class _Resource(TypedDict):
    resource: str
    providers: list[_ReadKey]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file; default: --encryption-config")
    add_configuration(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the verdict; every fault at once. Exit 2 when kube-apiserver would refuse the file."""
    require_own_packages()
    path = args.file or args.encryption_config or os.environ.get(variable("--encryption-config"))
    if path is None:
        raise SettingsError("command line", (Fault("FILE", "is missing", "name the file to check"),))
    try:
        generation = generation_of(path, allow_readable=args.allow_readable_config)
    except ConfigError as error:
        if args.output != "json":
            raise
        errors = [{"path": fault.path, "message": fault.message, "remedy": fault.remedy} for fault in error.faults]
        print_json({"ok": False, "file": path, "errors": errors, "resources": []})
        return Exit.USAGE
    resources = _resources(generation.configuration)
    if args.output == "json":
        print_json({"ok": True, "file": path, "hash": generation.hash, "errors": [], "resources": resources})
    else:
        _print_text(path, generation.hash, resources)
    return Exit.DONE


def _resources(configuration: EncryptionConfiguration) -> list[_Resource]:
    """Return each resource with the keys that read it, in the order in which they are tried."""
    found: list[_Resource] = []
    for name in configuration.resource_names():
        providers = configuration.providers_for(GroupResource.parse(name)) or ()
        keys = [key for provider in providers for key in _keys(provider)]
        found.append(
            {"resource": name, "providers": [{**key, "primary": place == 0} for place, key in enumerate(keys)]}
        )
    return found


def _keys(provider: Provider) -> list[_Key]:
    match provider:
        case KeyedProvider(type=kind, keys=keys):
            return [
                {"provider": kind.value, "key": key.name, "fingerprint": key.secret.fingerprint(kind.value)}
                for key in keys
            ]
        case KmsProvider(name=name):
            return [{"provider": "kms", "key": name, "fingerprint": "kms"}]
        case IdentityProvider():
            return [{"provider": "identity", "key": "", "fingerprint": "-"}]


def _print_text(path: str, content_hash: str, resources: list[_Resource]) -> None:
    say(f"{path}: kube-apiserver accepts it")
    say(content_hash)
    say()
    rows = [
        (resource["resource"], key["provider"], key["key"], key["fingerprint"], "writes" if key["primary"] else "reads")
        for resource in resources
        for key in resource["providers"]
    ]
    print_table(("RESOURCE", "PROVIDER", "KEY", "FINGERPRINT", ""), rows)
