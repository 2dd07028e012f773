"""deploy/alerts.yaml in promtool: each alert fires for its fault, after its time, and no other one with it.

A row is a fault: the series in which it differs from a healthy service, and the alerts that fire at a minute.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.documents.deployment import DEPLOY
from tests.servers.prometheus import PROMTOOL, require_prometheus

RULES = DEPLOY / "alerts.yaml"
DAY = 24 * 60
LAST = 2 * DAY + 30
COUNTS_UP = "0+1"

DOWN, NO_WORKER, NO_LEADER, STUCK = "Down", "NoWorker", "NoLeader", "CampaignStuck"
INCOMPLETE, UNREADABLE, NO_PROOF = "CampaignIncomplete", "Unreadable", "NoProof"
DUE, EXHAUSTED, RESTORED = "KeyBudgetDue", "KeyBudgetExhausted", "EtcdRestored"
FAILING, STATUS_OLD, KEK_HELD = "KmsPluginFailing", "KmsStatusOld", "KekHeld"

KEY = 'fingerprint="0123456789abcdef", provider="aesgcm"'
EVERYTHING = 'scope="everything"'
UNREADABLE_SECRETS = 'unreadable_objects{resource="secrets", reason="unknown_bytes"}'
RUNNING, COMPLETE, PAUSED = (
    f'campaign_state{{{EVERYTHING}, state="{state}"}}' for state in ("running", "complete", "paused")
)
STEP_DONE, STEP_SPREAD = (f'rotation_step{{step="{step}"}}' for step in ("done", "spread"))
QUARANTINED = f'campaign_objects{{{EVERYTHING}, outcome="quarantined"}}'
DUE_KEY, RESTORED_KEY = f"key_rotation_due{{{KEY}}}", f"key_restored{{{KEY}}}"
USED = f"key_budget_used{{{KEY}}}"
WORKED = 'messages_total{instance="w1", outcome="worked"}'
BACKUP_AGE = "backup_newest_proven_age_seconds"
CATALOGUE = 'backup_catalogue_readable{instance="s1"}'
NO_BACKUPS = dict.fromkeys((BACKUP_AGE, "backup_kept", "backup_not_readable", "backup_damaged_lines"), "_")
KEK_AGE, HELD = 'kek_status_age_seconds{provider="cloud"}', 'kek_held{provider="cloud"}'
CIRCUIT = 'kms_circuit_open{provider="cloud", version="v2", method="encrypt"}'
CALLS_OK, CALLS_FAILED = (
    f'kms_calls_total{{provider="cloud", version="v2", method="encrypt", outcome="{outcome}"}}'
    for outcome in ("ok", "unavailable")
)

HEALTHY: Mapping[str, str] = {
    **{f'up{{job="kube-rewrap", instance="{one}"}}': "1" for one in ("s1", "s2", "w1", "w2")},
    'is_leader{instance="s1"}': "1",
    'is_leader{instance="s2"}': "0",
    'queue_available{instance="s1"}': "1",
    'queue_available{instance="s2"}': "1",
    'worker_children{instance="w1"}': "2",
    'worker_children{instance="w2"}': "2",
    WORKED: COUNTS_UP,
    'messages_total{instance="w1", outcome="refused"}': "0",
    RUNNING: "0",
    COMPLETE: "1",
    PAUSED: "0",
    f'campaign_paused{{{EVERYTHING}, cause="quarantine"}}': "0",
    QUARANTINED: "0",
    "stale_objects": "0",
    "last_proof_age_seconds": "3600",
    "drift_found_total": "5",
    DUE_KEY: "0",
    RESTORED_KEY: "0",
    USED: "10",
    f"key_budget_limit{{{KEY}}}": "100",
    STEP_DONE: "1",
    STEP_SPREAD: "0",
    "rotation_step_age_seconds": "900000",
    "rotation_held": "0",
    "configuration_waiting": "0",
    KEK_AGE: "30",
    HELD: "0",
    CIRCUIT: "0",
    CALLS_OK: COUNTS_UP,
    CALLS_FAILED: "0",
    'kms_refused_sources_total{provider="cloud", version="v2"}': "0",
    BACKUP_AGE: "3600",
    "backup_kept": "30",
    "backup_not_readable": "0",
    CATALOGUE: "1",
    "backup_damaged_lines": "0",
}
GONE = "_"
"""No sample."""


@dataclass(frozen=True)
class Fault:
    """`series` replaces those of `HEALTHY`; `firing` is all that fires at these minutes, by name and number."""

    name: str
    series: Mapping[str, str]
    firing: Mapping[int, Mapping[str, int]]

    @property
    def minutes(self) -> int:
        """How long its series last."""
        return max(self.firing) + 2


def after(minute: int, alert: str, times: int = 1) -> dict[int, dict[str, int]]:
    """The alert fires at this minute, and nothing does three minutes before."""
    return {max(0, minute - 3): {}, minute: {alert: times}}


NO_WORKERS = {
    f'{name}{{{labels}instance="{one}"}}': value
    for name, labels, value in (("up", 'job="kube-rewrap", ', "0"), ("worker_children", "", GONE))
    for one in ("w1", "w2")
}
ENDED_INCOMPLETE = {COMPLETE: "0", f'campaign_state{{{EVERYTHING}, state="incomplete"}}': "1"}
UNDER_WAY = {COMPLETE: "0", RUNNING: "1"}
FAULTS = [
    Fault("a healthy service", {}, {5: {}, LAST: {}}),
    Fault("no backup is taken any more", {BACKUP_AGE: "3600+60"}, {2 * DAY - 60: {}, LAST: {"BackupOld": 1}}),
    Fault("no backup was ever proven readable", {BACKUP_AGE: GONE}, after(61, "BackupOld")),
    Fault("there is no catalogue", {**NO_BACKUPS, CATALOGUE: GONE}, {LAST: {}}),
    Fault("the catalogue can't be read", {**NO_BACKUPS, CATALOGUE: "0"}, after(16, "BackupCatalogueUnreadable")),
    Fault(
        "one of two replicas can't read the catalogue",
        {'backup_catalogue_readable{instance="s2"}': "0"},
        after(16, "BackupCatalogueUnreadable"),
    ),
    Fault("a line is damaged", {"backup_damaged_lines": "1"}, after(16, "BackupCatalogueUnreadable")),
    Fault("a backup can't be read", {"backup_not_readable": "1"}, after(6, "BackupNotReadable")),
    Fault("a worker is down", {'up{job="kube-rewrap", instance="w2"}': "0"}, after(6, DOWN)),
    Fault("a pod of a PodMonitor is down", {'up{job="ns/kube-rewrap", instance="w9"}': "0"}, after(6, DOWN)),
    Fault("a target of another job is down", {'up{job="etcd", instance="e1"}': "0"}, {60: {}}),
    Fault(
        "every worker is down in a campaign", {**NO_WORKERS, **UNDER_WAY, WORKED: "7"}, {60: {DOWN: 2, NO_WORKER: 1}}
    ),
    Fault(
        "no scheduler runs",
        {
            'up{job="kube-rewrap", instance="s1"}': "0",
            'is_leader{instance="s1"}': GONE,
            'is_leader{instance="s2"}': GONE,
            "last_proof_age_seconds": GONE,
        },
        {10: {DOWN: 1, NO_LEADER: 1}, LAST: {DOWN: 1, NO_LEADER: 1}},
    ),
    Fault("no scheduler leads", {'is_leader{instance="s1"}': "0", "last_proof_age_seconds": GONE}, after(3, NO_LEADER)),
    Fault("two schedulers lead", {'is_leader{instance="s2"}': "1"}, {60: {}}),
    Fault("workers do nothing in a campaign", {**UNDER_WAY, WORKED: "7"}, after(12, STUCK)),
    Fault("workers do nothing, and there is no campaign", {WORKED: "7"}, {60: {}}),
    Fault(
        "Redis is gone in a campaign",
        {
            **UNDER_WAY,
            WORKED: "7",
            'queue_available{instance="s1"}': "0",
            'queue_available{instance="s2"}': "0",
        },
        {2: {}, 60: {"QueueUnavailable": 1}},
    ),
    Fault("a standby reaches no Redis", {'queue_available{instance="s2"}': "0"}, {60: {}}),
    Fault("a campaign is paused", {COMPLETE: "0", PAUSED: "1"}, after(DAY + 2, "CampaignPaused")),
    Fault(
        "a campaign ended incomplete by parked batches", {**ENDED_INCOMPLETE, QUARANTINED: "3"}, after(16, INCOMPLETE)
    ),
    Fault(
        "a campaign ended incomplete, since objects can't be read",
        {**ENDED_INCOMPLETE, QUARANTINED: "3", UNREADABLE_SECRETS: "3", "last_proof_age_seconds": "0+60"},
        {1: {}, 6: {UNREADABLE: 1}, 20: {UNREADABLE: 1, INCOMPLETE: 1}},
    ),
    Fault("a campaign leaves objects as they are", {**UNDER_WAY, QUARANTINED: "3"}, after(6, "Quarantine")),
    Fault("a complete campaign had left objects that are gone since", {QUARANTINED: "3"}, {60: {}}),
    Fault(
        "values are tried out",
        {COMPLETE: "0", PAUSED: "1", f'campaign_paused{{{EVERYTHING}, cause="quarantine"}}': "1", QUARANTINED: "201"},
        {0: {"QuarantineGrew": 1}, 60: {"QuarantineGrew": 1}, DAY + 60: {"QuarantineGrew": 1}},
    ),
    Fault("objects can't be read", {UNREADABLE_SECRETS: "2"}, after(6, UNREADABLE)),
    Fault("a kube-apiserver loads the file later than others", {"drift_found_total": "5+1x9 14+0x60"}, {60: {}}),
    Fault(
        "a client that writes every twenty minutes drifts",
        {"drift_found_total": "5+0x19 6+0x19 7+0x19 8+0x19 9+0x19 10+0x19"},
        {45: {}, 70: {"Drift": 1}, 100: {"Drift": 1}},
    ),
    Fault("drift does not end", {"drift_found_total": COUNTS_UP}, after(17, "Drift")),
    Fault("objects are stale", {"stale_objects": "4"}, after(DAY + 2, "StaleObjects")),
    Fault("a campaign of days rewrites stale objects", {**UNDER_WAY, "stale_objects": "4"}, {DAY + 60: {}}),
    Fault(
        "a campaign that is paused leaves stale objects",
        {COMPLETE: "0", PAUSED: "1", "stale_objects": "4"},
        after(DAY + 2, "CampaignPaused"),
    ),
    Fault("a key is due", {DUE_KEY: "1", USED: "80"}, {0: {DUE: 1}, 60: {DUE: 1}}),
    Fault("a key that only reads has used its budget", {USED: "100"}, {60: {}}),
    Fault("a key is exhausted", {DUE_KEY: "1", USED: "100"}, {0: {EXHAUSTED: 1}}),
    Fault("etcd was restored", {DUE_KEY: "1", RESTORED_KEY: "1"}, {0: {RESTORED: 1}}),
    Fault(
        "etcd was restored, and the key exhausted", {DUE_KEY: "1", RESTORED_KEY: "1", USED: "100"}, {0: {RESTORED: 1}}
    ),
    Fault("a key that only reads was restored", {RESTORED_KEY: "1"}, {60: {}}),
    Fault(
        "a rotation is held",
        {STEP_DONE: "0", STEP_SPREAD: "1", "rotation_held": "1"},
        after(16, "RotationHeld"),
    ),
    Fault(
        "a rotation is stuck",
        {STEP_DONE: "0", STEP_SPREAD: "1", "rotation_step_age_seconds": "0+60"},
        {DAY: {}, DAY + 20: {"RotationStuck": 1}},
    ),
    Fault("nothing was proven for days", {"last_proof_age_seconds": "172900"}, after(16, NO_PROOF)),
    Fault("nothing was ever proven", {"last_proof_age_seconds": GONE}, after(2 * DAY + 2, "NeverProved")),
    Fault("workers' calls to a plugin fail", {CALLS_OK: "9", CALLS_FAILED: COUNTS_UP}, after(7, FAILING)),
    Fault("a few calls fail among others", {CALLS_FAILED: COUNTS_UP}, {60: {}}),
    Fault("a plugin's circuit is open", {CIRCUIT: "1"}, after(6, FAILING)),
    Fault("a plugin names no key id", {KEK_AGE: "0+60", HELD: "1"}, {2: {}, 6: {STATUS_OLD: 1}, 60: {STATUS_OLD: 1}}),
    Fault(
        "a new file waits for its plugin",
        {"configuration_waiting": "1", HELD: "1"},
        {2: {}, 60: {"ConfigurationWaiting": 1}},
    ),
    Fault("a plugin names key ids in turns", {HELD: "1"}, after(16, KEK_HELD)),
    Fault(
        "a plugin refuses keys",
        {'kms_refused_sources_total{provider="cloud", version="v2"}': "0 0 0 1+0x30"},
        {2: {}, 5: {"KmsSourcesRefused": 1}, 20: {}},
    ),
    Fault(
        "messages are refused",
        {'messages_total{instance="w1", outcome="refused"}': "0 0 0 1+0x30"},
        {2: {}, 5: {"MessagesRefused": 1}, 20: {}},
    ),
]


def samples(value: str, minutes: int) -> str:
    """In promtool's notation, one a minute."""
    if " " in value:
        return value
    return f"{value}x{minutes}" if "+" in value or value == GONE else f"{value}+0x{minutes}"


def as_test(fault: Fault) -> dict[str, object]:
    return {
        "interval": "1m",
        "input_series": [
            {
                "series": name if name.startswith("up{") else f"kube_rewrap_{name}",
                "values": samples(value, fault.minutes),
            }
            for name, value in {**HEALTHY, **fault.series}.items()
        ],
        "promql_expr_test": [
            {
                # The comment is what promtool shows of a fault.
                "expr": f'# {fault.name}\ncount by (alertname) (ALERTS{{alertstate="firing"}})',
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="KubeRewrap{name}"}}', "value": times} for name, times in alerts.items()
                ],
            }
            for minute, alerts in fault.firing.items()
        ],
    }


def write_tests(file: Path, faults: Sequence[Fault], every: str) -> Path:
    tests = {"rule_files": [str(RULES)], "evaluation_interval": every, "tests": [as_test(one) for one in faults]}
    file.write_text(json.dumps(tests))
    return file


def run_promtool(*words: str | Path) -> str:
    """Returns "" if it finds no fault, else what it says."""
    require_prometheus()
    ended = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False, timeout=100)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def test_prometheus_takes_the_rules() -> None:
    assert run_promtool("check", "rules", RULES) == ""


def test_each_alert_fires_for_its_fault_after_its_time_and_for_no_other(tmp_path: Path) -> None:
    short = [fault for fault in FAULTS if fault.minutes < DAY]
    long = [fault for fault in FAULTS if fault not in short]
    files = [
        write_tests(tmp_path / "short.json", short, "1m"),
        write_tests(tmp_path / "long.json", long, "5m"),
    ]
    assert run_promtool("test", "rules", *files) == ""


def test_an_alert_that_does_not_fire_is_noticed(tmp_path: Path) -> None:
    wrong = Fault("nothing is down", {}, {5: {DOWN: 1}})
    assert "nothing is down" in run_promtool("test", "rules", write_tests(tmp_path / "wrong.json", [wrong], "1m"))


def test_every_alert_has_a_fault() -> None:
    rules = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    fired = {f"KubeRewrap{name}" for fault in FAULTS for alerts in fault.firing.values() for name in alerts}
    assert fired == set(rules)
