"""The scheduler's one door to the engine and to claimed work: no other module of `scheduler` or `cli` imports them."""

from __future__ import annotations

from kube_rewrap.worker.backups.reading import BackupReport, read_backup
from kube_rewrap.worker.chains import describe
from kube_rewrap.worker.claimed import ClaimingWorker, Job, failure, serve, settle
from kube_rewrap.worker.engine import Engine, Examined, open_engine
from kube_rewrap.worker.parent import ALIVE_SECONDS, ceiling_named, open_parent, paces_of, tell
from kube_rewrap.worker.plugin_trials import ask_key_ids, ask_why_away, open_data_keys, try_plugin

__all__ = [
    "ALIVE_SECONDS",
    "BackupReport",
    "ClaimingWorker",
    "Engine",
    "Examined",
    "Job",
    "ask_key_ids",
    "ask_why_away",
    "ceiling_named",
    "describe",
    "failure",
    "open_data_keys",
    "open_engine",
    "open_parent",
    "paces_of",
    "read_backup",
    "serve",
    "settle",
    "tell",
    "try_plugin",
]
