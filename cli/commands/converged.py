"""`rewrap converged [FILE]`: whether all kube-apiservers run this EncryptionConfiguration."""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import generation_of, read_file_argument, read_settings
from kube_rewrap.cli.output import print_json, print_sentence, print_table, say
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe, wait_converged
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import HostileArgumentError, reason_of


def run(args: argparse.Namespace) -> int:
    """Print the verdict. Exit 3 when not all run it, or it is unknown; 5 when no kube-apiserver could be reached."""
    return run_async(lambda: _converged(args))


async def _converged(args: argparse.Namespace) -> int:
    settings, path = read_settings(args, os.environ), read_file_argument(args, os.environ)
    file_hash = generation_of(path, allow_readable=args.allow_readable_config).file_hash
    brake = brake_on_signals()
    prefix = settings.keyspace.state_prefix
    async with open_store(settings.etcd, prefix) as store:
        probe = ApiserverProbe(settings, store, path)
        if args.assume_converged is not None:
            audit = AuditLog(store, Keyspace(prefix), "rewrap converged")
            verdict = await probe.assume(file_hash, _reason(args.assume_converged), audit)
        elif args.wait and settings.apiservers.addresses:
            seconds = settings.apiservers.converge_timeout
            verdict = await wait_converged(lambda: probe.probe(file_hash), brake, seconds)
        else:
            verdict = await brake.unless_pulled(probe.probe(file_hash))
    if args.output == "json":
        print_json(_json(verdict))
    else:
        _print_text(verdict)
    if verdict.is_converged:
        return Exit.DONE
    return Exit.INCOMPLETE if verdict.reached or not settings.apiservers.addresses else Exit.UNREACHABLE


def _reason(text: str) -> str:
    try:
        if text.strip():
            return reason_of(text.strip(), "the reason")
        message = "gives no reason"
    except HostileArgumentError as error:
        message = str(error)
    fault = Fault("--assume-converged", message, "say how you know: it is kept in the audit log")
    raise SettingsError("command line", (fault,))


def _json(verdict: Convergence) -> dict[str, object]:
    return {
        "converged": verdict.is_converged,
        "file_hash": verdict.file_hash,
        "because": verdict.because,
        "replicas": [one.to_json() for one in verdict.replicas],
        "warnings": list(verdict.warnings),
        "assumed": verdict.assumed,
    }


def _print_text(verdict: Convergence) -> None:
    if verdict.replicas:
        rows = [
            (one.address or "-", one.name or one.id or "-", one.state.value, one.because) for one in verdict.replicas
        ]
        print_table(("ADDRESS", "REPLICA", "STATE", "BECAUSE"), rows)
        say()
    for warning in verdict.warnings:
        print_sentence(f"Careful: {warning}")
    print_sentence(f"{'CONVERGED' if verdict.is_converged else 'NOT CONVERGED'}: {verdict.because}")
