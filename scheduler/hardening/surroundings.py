"""Checks of the environment: the file, the connections to etcd, the kube-apiservers, etcd's size. Pure."""

from __future__ import annotations

import stat
from collections.abc import Callable

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.hardening.facts import PLUGIN_REMEDY, Check, HardeningFacts, SocketFacts, State, named
from kube_rewrap.worker.etcd.grants import Access
from kube_rewrap.worker.verdict import KeyRef

_FOREIGN = stat.S_IRWXG | stat.S_IRWXO
_FOREIGN_WRITE = stat.S_IWGRP | stat.S_IWOTH
_FILLING = 0.6
"""Share of etcd's quota from which a rewrite of everything may approach the stop mark."""


def file_mode(facts: HardeningFacts) -> Check:
    """Check that neither group nor others have access to the file: it holds the keys."""
    name, file = "file-mode", facts.file
    if file.mode & _FOREIGN:
        reason = f"{file.path} holds keys, and its mode {file.mode:04o} gives group or others access"
        return Check(name, State.FAIL, reason, "`chmod 600` it; if others may have read it, rotate its keys")
    return Check(name, State.PASS, f"{file.path} has mode {file.mode:04o}")


def file_owner(facts: HardeningFacts) -> Check:
    """Check that root owns the file."""
    name, file = "file-owner", facts.file
    if file.owner:
        return Check(name, State.WARN, f"{file.path} belongs to uid {file.owner}, not to root", "`chown root` it")
    return Check(name, State.PASS, f"{file.path} belongs to root")


def directory_mode(facts: HardeningFacts) -> Check:
    """Check that only owners can write to its directories: a writer could replace the file."""
    name, directories = "directory-mode", facts.file.directories
    if loose := [f"{path} ({mode:04o})" for path, mode in directories if mode & _FOREIGN_WRITE]:
        reason = f"group or others can write to the directory of the file: {named(loose)}"
        return Check(name, State.FAIL, reason, "`chmod 700` it")
    return Check(name, State.PASS, f"only its owner can write to {named(path for path, _ in directories)}")


def kms_socket(facts: HardeningFacts) -> Check:
    """Check who can connect to the sockets of KMS plugins, and put another in their place: both can decrypt all."""
    name, sockets = "kms-socket", facts.sockets
    if not sockets:
        return Check(name, State.PASS, "no KMS provider connects to a socket")
    for state, fault_of, remedy in _SOCKET_FAULTS:
        if found := [f"{one.provider}: {one.address!a} {fault}" for one in sockets if (fault := fault_of(one))]:
            return Check(name, state, named(found), remedy)
    return Check(
        name, State.PASS, f"only owner and group can connect to {named(ascii(one.address) for one in sockets)}"
    )


def _open_socket(socket: SocketFacts) -> str:
    if socket.unseen:
        return ""
    if not socket.is_socket:
        return "is no socket"
    if socket.directory_mode & stat.S_IWOTH:
        return f"lies in a directory to which others can write ({socket.directory_mode:04o})"
    if socket.mode & stat.S_IWOTH and not socket.is_shielded:
        return f"has mode {socket.mode:04o}: every process of this machine can connect"
    return ""


def _weak_socket(socket: SocketFacts) -> str:
    if socket.address.startswith("@"):
        return "is abstract: every process in its network namespace can connect"
    if socket.unseen:
        return ""
    if socket.directory_owner not in {0, socket.owner}:
        return f"lies in a directory of uid {socket.directory_owner}, which is neither root's nor the plugin's"
    if socket.directory_mode & stat.S_IWGRP:
        return f"lies in a directory to which its group can write ({socket.directory_mode:04o})"
    return ""


def _unseen_socket(socket: SocketFacts) -> str:
    return f"can't be looked at from here: {socket.unseen}" if socket.unseen else ""


_SOCKET_FAULTS: tuple[tuple[State, Callable[[SocketFacts], str], str], ...] = (
    (
        State.FAIL,
        _open_socket,
        "let the plugin make its socket with mode 0660, in a directory of its own with mode 0750",
    ),
    (
        State.WARN,
        _weak_socket,
        "give the plugin a socket with a path, in a directory of its own with mode 0750",
    ),
    (State.UNKNOWN, _unseen_socket, "audit on the machine, and with the mount, of the plugin that kube-apiserver uses"),
)


def etcd_tls(facts: HardeningFacts) -> Check:
    """Check that clients connect to etcd by TLS: passwords and plaintext objects cross the network, too."""
    name, remedy = "etcd-tls", "give etcd a certificate, and https endpoints to every client"
    bare = [one for one in facts.exposures if not one.secure]
    if far := [one.endpoint for one in bare if not one.local]:
        return Check(name, State.FAIL, f"no TLS on the network: {named(far)}", remedy)
    if near := [one.endpoint for one in bare]:
        return Check(name, State.WARN, f"no TLS, though not beyond this machine: {named(near)}", remedy)
    return Check(name, State.PASS, f"TLS to every given endpoint: {named(one.endpoint for one in facts.exposures)}")


def etcd_access(facts: HardeningFacts) -> Check:
    """Check that a client without certificate and password gets no answer."""
    name = "etcd-access"
    if opened := [one.endpoint for one in facts.exposures if one.access is Access.ANSWERS]:
        reason = f"a client without certificate and password can read from {named(opened)}"
        return Check(name, State.FAIL, reason, "run etcd with --client-cert-auth and --trusted-ca-file")
    if unclear := [f"{one.endpoint}: {one.because}" for one in facts.exposures if one.access is Access.UNCLEAR]:
        reason = f"whether it answers a client without certificate and password can't be determined: {named(unclear)}"
        return Check(name, State.UNKNOWN, reason, "see that the endpoint is up, and audit again")
    said = (f"{one.endpoint} {one.access.value}" for one in facts.exposures)
    return Check(name, State.PASS, f"a client without certificate and password gets no data: {named(said)}")


def converged(facts: HardeningFacts) -> Check:
    """Check that all kube-apiservers run exactly this file."""
    name, verdict = "converged", facts.convergence
    if verdict.is_converged and facts.missing and any(map(_is_unknown_kek, facts.writers)):
        reason = f"{verdict.because}; under which KEK they write is not compared, since no plugin names one"
        return Check(name, State.UNKNOWN, reason, PLUGIN_REMEDY)
    if verdict.is_converged:
        return Check(name, State.PASS, verdict.because)
    if verdict.is_contradicted:
        remedy = "bring the same file to every control-plane node, and follow `rewrap converged --wait`"
        return Check(name, State.FAIL, verdict.because, remedy)
    return Check(name, State.UNKNOWN, verdict.because, "give every address with --apiserver; see `rewrap converged`")


def _is_unknown_kek(key: KeyRef) -> bool:
    return key.provider == ProviderType.KMS and key.version.startswith("v2") and not key.is_kek


def space(facts: HardeningFacts) -> Check:
    """Check that etcd has room for a rewrite, and that no alarm is raised."""
    name, room = "space", facts.room
    share = room.projected / room.quota if room.quota else 0.0
    assumed = "" if facts.quota_told else ", assumed to be etcd's default (set --quota-bytes if it is not)"
    said = f"the database is at {share:.0%} of its quota{assumed}"
    if room.refusal is not None:
        return Check(name, State.FAIL, room.refusal.partition(": ")[0], room.refusal.partition(": ")[2])
    if share > _FILLING:
        return Check(name, State.WARN, said, "compact and defragment it (docs/etcd-nearly-full.md)")
    if facts.silent:
        reason = f"{said}, but these endpoints did not report theirs: {named(facts.silent)}"
        return Check(name, State.UNKNOWN, reason, "see that every endpoint is up, and audit again")
    return Check(name, State.PASS, f"{said}, and no alarm is raised")
