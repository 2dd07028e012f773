"""`rewrap inspect ETCD_KEY`: prints how one object is stored, never its plaintext."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_generation, read_settings
from kube_rewrap.cli.output import print_fields, print_json
from kube_rewrap.cli.running import run_async
from kube_rewrap.scheduler.engine import Examined
from kube_rewrap.scheduler.registry.arguments import require_object
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.examination import examine
from kube_rewrap.worker.etcd.ranges import key_bytes, key_text
from kube_rewrap.worker.verdict import Keep, Quarantine, Rewrap


def run(args: argparse.Namespace) -> int:
    """Decrypt one object and print its state. Exit 3 when it is unreadable, 2 when it is absent or ungoverned."""
    return run_async(lambda: _inspect(args))


async def _inspect(args: argparse.Namespace) -> int:
    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    key = key_bytes(args.object)
    await require_object(settings, generation, key)
    async with open_cluster(settings, generation) as cluster:
        resource, examined = await examine(cluster, key)
    document = _document(resource, examined)
    if args.output == "json":
        print_json(document)
    else:
        print_fields(_rows(document))
    return Exit.DONE if document["readable"] else Exit.INCOMPLETE


def _document(resource: str, examined: Examined) -> dict[str, object]:
    item, verdict = examined.item, examined.verdict
    document: dict[str, object] = {"key": key_text(item.key), "resource": resource}
    match verdict:
        case Keep(ref) | Rewrap(ref):
            document |= {"provider": ref.provider, "key_name": ref.name, "fingerprint": ref.fingerprint}
            document |= {"readable": True, "stale": isinstance(verdict, Rewrap), "reason": None}
        case Quarantine(reason, detail, claimed):
            provider, name = (claimed[0].provider, claimed[0].name) if claimed else (None, None)
            document |= {"provider": provider, "key_name": name, "fingerprint": None}
            document |= {"readable": False, "stale": True, "reason": f"{reason.value}: {detail}"}
    return document | {
        "kms": _kms(examined),
        "mod_revision": item.mod_revision,
        "version": item.version,
        "lease": item.lease,
        "bytes": len(item.value),
    }


def _kms(examined: Examined) -> dict[str, object] | None:
    """Return what a value under a KMS provider says of its key: untrusted text, escaped."""
    wrapped = examined.wrapped
    if wrapped is None:
        return None
    is_v2 = wrapped.plugin.version == "v2"
    return {
        "version": wrapped.plugin.version,
        "key_id": ascii(wrapped.key_id)[1:-1] if is_v2 else None,
        "source_type": wrapped.source_type.value if is_v2 else None,
        "source": wrapped.digest,
        "annotations": len(wrapped.annotations),
        "plugin_text": examined.plugin_text or None,
    }


def _rows(document: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from ((f"KMS {field.replace('_', ' ')}", _shown(one)) for field, one in value.items())
        elif name != "kms":
            yield name.replace("_", " "), _shown(value)


def _shown(value: object) -> object:
    """Return what a person reads: "-" for what is absent, yes and no."""
    return "-" if value is None else ("yes" if value else "no") if isinstance(value, bool) else value
