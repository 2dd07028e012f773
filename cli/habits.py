"""What users of kubectl, etcdctl, etcd and kube-apiserver write out of habit, and what rewrap has for it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

_ALL = "all namespaces are covered by default"
_INSIDE = "labels and fields are inside the encrypted objects; `rewrap run` takes --resource and --namespace"
_IN_ETCD = "rewrap reads etcd, not the API: see --endpoints, --cacert, --cert and --key"
_LOGS = "set the variable REWRAP_LOG_LEVEL to debug, info, warning or error"
_TLS = "write http:// in --endpoints for an etcd without TLS; https:// is always verified, by --cacert"
_WATCH = "see `rewrap top` and `rewrap campaign wait`"

_FLAGS = {
    "-n": "--namespace",
    "--ns": "--namespace",
    "-A": _ALL,
    "--all-namespaces": _ALL,
    "--all": _ALL,
    "-l": _INSIDE,
    "--selector": _INSIDE,
    "--field-selector": _INSIDE,
    "-r": "--resource",
    "--kind": "--resource",
    "-w": "-o",  # etcdctl's; kubectl's means --watch
    "--write-out": "-o",
    "--format": "-o",
    "--json": "-o",
    "--watch": _WATCH,
    "--follow": _WATCH,
    "--output-file": "--write-to",
    "--out": "--write-to",
    "--force": "--overwrite",
    "-y": "--yes",
    "--kubeconfig": _IN_ETCD,
    "--context": _IN_ETCD,
    "--server": _IN_ETCD,
    "-s": _IN_ETCD,
    "-v": _LOGS,
    "--verbose": _LOGS,
    "--debug": _LOGS,
    "-q": _LOGS,
    "--quiet": _LOGS,
    "--username": "--user",
    "--password": "the password goes into the variable REWRAP_PASSWORD, beside --user NAME",
    "--insecure-skip-tls-verify": _TLS,
    "--insecure-transport": _TLS,
    "--etcd-servers": "--endpoints",
    "--ca-file": "--cacert",
    "--trusted-ca-file": "--cacert",
    "--etcd-cafile": "--cacert",
    "--cert-file": "--cert",
    "--etcd-certfile": "--cert",
    "--key-file": "--key",
    "--etcd-keyfile": "--key",
    "--encryption-provider-config": "--encryption-config",
    "--prefix": "--etcd-prefix",
    "-c": "--encryption-config",
    "--config": "--encryption-config",
}
_FEW = 3
"""Most commands that a sentence names."""

_ARGUMENTS = {
    "run": "--resource",
    "campaign": "--resource",
    "rotate": "--resource",
    "report": "--campaign",
    "inspect": "an object is named by its key in etcd, such as /registry/secrets/NAMESPACE/NAME",
}
"""By command, the flag that takes what users write without one, or a sentence."""

_WORDS: Mapping[str, tuple[str, ...]] = {
    "get": ("status", "inspect", "campaign list"),
    "describe": ("inspect", "campaign show"),
    "list": ("status", "campaign list"),
    "ls": ("status", "campaign list"),
    "logs": ("audit-log list", "campaign show"),
    "watch": ("top",),
    "wait": ("campaign wait",),
    "apply": ("run", "campaign start"),
    "start": ("run", "campaign start"),
    "create": ("run", "campaign start"),
    "migrate": ("run",),
    "reencrypt": ("run",),
    "rewrap": ("run",),
    "pause": ("campaign pause",),
    "resume": ("run", "campaign resume"),
    "delete": ("campaign cancel",),
    "cancel": ("campaign cancel",),
    "stop": ("campaign pause", "campaign cancel"),
    "plan": ("run --dry-run",),
    "diff": ("run --dry-run",),
    "prove": ("verify", "backups prove"),
    "proof": ("verify", "report"),
    "validate": ("check",),
    "lint": ("check",),
    "decrypt": ("inspect",),
    "generate": ("keygen",),
    "rotate-keys": ("rotate",),
    "snapshot": ("backups",),
    "backup": ("backups",),
    "endpoint": ("status", "top"),
    "health": ("status", "top"),
    "budgets": ("keys",),
}
_VERBS: Mapping[str, tuple[str, ...]] = {
    "get": ("list", "show"),
    "ls": ("list",),
    "describe": ("show",),
    "status": ("show",),
    "logs": ("show",),
    "create": ("start",),
    "run": ("start",),
    "watch": ("wait",),
    "follow": ("wait",),
    "continue": ("resume",),
    "unpause": ("resume",),
    "stop": ("pause", "cancel"),
    "abort": ("cancel",),
    "delete": ("cancel",),
    "kill": ("cancel",),
    "rm": ("forget", "cancel"),
    "check": ("prove", "verify"),
    "show": ("inspect", "list"),
}


def words_for(habit: str, choices: Collection[str]) -> tuple[str, ...]:
    """Return the commands, or the verbs of one, that do what another tool's word does; `choices` are all there are."""
    table = _WORDS if "status" in choices else _VERBS
    return tuple(one for one in table.get(habit, ()) if one.split()[0] in choices)


def advice_on(wrong: str, command: str, flags: Mapping[str, Collection[str]]) -> str:
    """Return a sentence on an argument that a command does not take, "" where there is none.

    `flags` are those of each command.
    """
    if not wrong.startswith("-"):
        flag = _ARGUMENTS.get(command, "")
        return f"did you mean {flag} {wrong}?" if flag in flags[command] else flag
    name = wrong.partition("=")[0] if wrong.startswith("--") else wrong[:2]
    ours = _FLAGS.get(name, name)
    if not ours.startswith("-"):
        return ours
    # Another verb of the command may have the flag itself.
    near = [ours] if ours in flags[command] else get_close_matches(name, flags[command], n=1)
    if near and near != [name]:
        return f"did you mean {near[0]}?"
    takers = [one for one, theirs in flags.items() if ours in theirs and one not in {command, "demo"}]
    return f"{ours} is a flag of {' and '.join(takers)}" if 0 < len(takers) <= _FEW else ""
