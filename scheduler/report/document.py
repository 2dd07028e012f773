"""The document of a report: facts in, JSON out (docs/report.schema.json). Pure.

1. A list has at most as many members as the constant says, and its total beside it.
2. Every text passes `Wording`: no key material is in any fact, and object names only where they were asked for.
3. The verdict is of the subject and of its scope. What weakens it stands beside it as a caveat.
4. What is not known is null, never a zero or a success.

Not handled: how it looks (`cli/report_page.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter

from kube_rewrap.scheduler.campaigns.status import Overview
from kube_rewrap.scheduler.hardening.checklist import judge, summarise
from kube_rewrap.scheduler.hardening.facts import HardeningFacts, without_names
from kube_rewrap.scheduler.hardening.standards import finding_json
from kube_rewrap.scheduler.keys.alerts import judge_state, writing
from kube_rewrap.scheduler.report.backups import catalogue_json, last_end, needed
from kube_rewrap.scheduler.report.facts import ReportFacts, SubjectKind
from kube_rewrap.scheduler.report.verdict import NOT_CLAIMED, caveats_of, judge_subject
from kube_rewrap.scheduler.report.wording import Wording
from kube_rewrap.worker.records.audit_chain import Entry, is_anchored
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.inventory import Inventory, counts_json
from kube_rewrap.worker.records.proof_counts import KeyCount, ProofCounts, key_counts
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

FORMAT = 1
"""Version of the document's form."""

MOST_ROWS = 200
"""Members of a list: resources, keys, replicas, steps, entries, objects."""

_READS = 20
_BLOCKERS = 6
_NAME = 120


def report_document(facts: ReportFacts) -> dict[str, object]:
    """Return the JSON document of a report."""
    words = Wording(facts.etcd_prefix, facts.names)
    judged = facts.judged if facts.names or facts.judged is None else without_names(facts.judged)
    proof = _proof(facts, words)
    checklist = _checklist(judged, words)
    return {
        "format": FORMAT,
        "made": {"at": facts.at, "by": words.text(facts.made_by, _NAME), "version": facts.version},
        "subject": {"kind": facts.subject.kind.value, "id": facts.subject.id or None},
        "verdict": _verdict(facts, words),
        "cluster": {
            "etcd_cluster_ids": sorted({f"{one.cluster_id:x}" for one in facts.members})[:_READS],
            "etcd_versions": sorted({words.text(one.version, _NAME) for one in facts.members})[:_READS],
            "endpoints": len(facts.members),
            "etcd_prefix": words.text(facts.etcd_prefix.rstrip("/"), _NAME),
            "state_prefix": words.text(facts.state_prefix, _NAME),
            "revision": facts.revision,
        },
        "configuration": {
            "file_hash": facts.generation.file,
            "generation": facts.generation.hash,
            "in_force": words.text(facts.in_force, _NAME) or None,
        },
        "governed": _governed(facts, words),
        "proof": proof,
        "scan": _scan(judged.proof, judged.missing, words) if judged else None,
        "campaign": _campaign(facts.campaign, words) if facts.campaign else None,
        "quarantine": _quarantine(facts, words),
        "keys": _keys(facts, words),
        "rotations": _rotations(facts, words),
        "apiservers": _apiservers(facts, words),
        "audit_log": _audit_log(facts, words),
        "checklist": checklist,
        "backups": _backups(judged, words),
        "not_claimed": [{"what": what, "because": because} for what, because in NOT_CLAIMED],
    }


def _verdict(facts: ReportFacts, words: Wording) -> dict[str, object]:
    proven, sentence = judge_subject(facts)
    caveats = [words.text(one) for one in caveats_of(facts)]
    state = "not_proven" if not proven else "proven_with_caveats" if caveats else "proven"
    return {"state": state, "sentence": words.text(sentence), "caveats": caveats}


def _governed(facts: ReportFacts, words: Wording) -> dict[str, object]:
    """Return the chains of keys, each with the resources that it governs: adjacent ones that are equal are one."""
    chains = [
        (chain, [name for name, _ in alike]) for chain, alike in groupby(facts.generation.resources, itemgetter(1))
    ]
    return {
        "resources_total": len(facts.generation.resources),
        "total": len(chains),
        "entries": [
            {
                "resources": [words.text(name, _NAME) for name in names[:MOST_ROWS]],
                "resources_total": len(names),
                "writes": _key(chain[0], words),
                "reads": [_key(key, words) for key in chain[1 : _READS + 1]],
                "reads_total": len(chain) - 1,
            }
            for chain, names in chains[:MOST_ROWS]
        ],
    }


def _key(key: KeyRef, words: Wording) -> dict[str, object]:
    return {
        "provider": words.text(key.provider, _NAME),
        "key": words.text(key.name, _NAME),
        "fingerprint": None if key.fingerprint == PLAINTEXT_FINGERPRINT else words.text(key.fingerprint, _NAME),
    }


def _proof(facts: ReportFacts, words: Wording) -> dict[str, object] | None:
    """Return the proof of the subject, None where none is on record."""
    match facts.subject.kind:
        case SubjectKind.NOW:
            return _scanned(facts, words)
        case SubjectKind.CAMPAIGN:
            return _of_campaign(facts, words)
        case SubjectKind.ROTATION:
            return _of_rotation(facts, words)


def _scanned(facts: ReportFacts, words: Wording) -> dict[str, object] | None:
    if facts.judged is None:
        return None
    found = facts.judged.proof
    return {
        "source": "scan",
        "complete": found.is_clean and not facts.judged.missing,
        "revision": found.revision,
        "at": facts.at,
        "by": [words.text(facts.made_by, _NAME)],
        "generation": facts.generation.hash,
        "because": words.text(judge_subject(facts)[1]),
        **_counted(ProofCounts.of(found), words),
    }


def _of_campaign(facts: ReportFacts, words: Wording) -> dict[str, object] | None:
    """Return the proof as the campaign's record has it; records of older versions have no counts."""
    campaign = facts.campaign.campaign if facts.campaign else None
    if facts.campaign is None or campaign is None or not campaign.proof_revision:
        return None
    return {
        "source": "campaign",
        "complete": judge_subject(facts)[0],
        "revision": campaign.proof_revision,
        "at": words.text(campaign.ended_at, _NAME) or None,
        "by": _actors((one for one in facts.trail if one.event == "campaign.finished"), words),
        "generation": words.text(campaign.generation, _NAME),
        "because": words.text(campaign.because),
        **_counted(campaign.proof_counts, words),
    }


def _of_rotation(facts: ReportFacts, words: Wording) -> dict[str, object] | None:
    """Return the proof as the step `prove` of the rotation has it: only a clean scan passes that."""
    rotation = facts.rotation
    if rotation is None or not rotation.proof_revision:
        return None
    proving = next((one for one in reversed(rotation.passed) if one.step is RotationStep.PROVE), None)
    campaign = facts.campaign.campaign if facts.campaign else None
    return {
        "source": "rotation",
        "complete": True,
        "revision": rotation.proof_revision,
        "at": words.text(proving.at, _NAME) if proving else None,
        "by": _actors((one for one in facts.trail if one.detail.get("rotation") == rotation.id), words),
        "generation": words.text(campaign.generation, _NAME) if campaign else None,
        "because": words.text(proving.because if proving else rotation.because),
        **_counted(rotation.proof_counts, words),
    }


def _counted(found: ProofCounts | None, words: Wording) -> dict[str, object]:
    """Return the counts of a proof, with one row by resource and key; all null where the record has none."""
    if found is None:
        return dict.fromkeys(("objects", "stale", "unreadable", "total", "keys"))
    return {
        "objects": found.objects,
        "stale": found.stale,
        "unreadable": found.unreadable,
        "total": found.total,
        "keys": _key_counts(found.keys, words),
    }


def _key_counts(counts: Iterable[KeyCount], words: Wording) -> list[dict[str, object]]:
    return [
        {
            "resource": words.text(one.resource, _NAME),
            **_key(one.key, words),
            "objects": one.objects,
            "state": one.state.value,
        }
        for one in islice(counts, MOST_ROWS)
    ]


def _actors(entries: Iterable[Entry], words: Wording) -> list[str]:
    return sorted({words.text(one.actor, _NAME) for one in entries})[:_READS]


def _scan(found: Inventory, missing: str, words: Wording) -> dict[str, object]:
    rows = list(key_counts(found))
    return {
        "revision": found.revision,
        "objects": found.objects,
        "stale": found.stale - found.undetermined,
        "undetermined": found.undetermined,
        "unreadable": found.unreadable,
        "unknown_paths": len(found.unknown),
        "missing": words.text(missing) or None,
        "total": len(rows),
        "keys": _key_counts(rows, words),
    }


def _campaign(found: Overview, words: Wording) -> dict[str, object] | None:
    campaign = found.campaign
    if campaign is None:
        return None
    return {
        "id": campaign.id,
        "state": campaign.state.value,
        "because": words.text(campaign.because),
        "generation": words.text(campaign.generation, _NAME),
        "planned_at": words.text(campaign.planned_at, _NAME),
        "ended_at": words.text(campaign.ended_at, _NAME) or None,
        "reason": words.text(campaign.options.reason) or None,
        "convergence": words.text(campaign.convergence) or None,
        "sweeps": campaign.sweeps,
        "batches": campaign.batches,
        "scope": _scope(campaign, words),
        "report": found.report.to_json(),
    }


def _scope(campaign: Campaign, words: Wording) -> dict[str, object]:
    scope = campaign.scope
    return {
        "whole": campaign.whole,
        "resources_total": len(scope.resources),
        "resources": [words.text(name, _NAME) for name in scope.resources[:MOST_ROWS]],
        "namespaces_total": len(scope.namespaces),
        "namespaces": [words.text(name, _NAME) for name in scope.namespaces[:MOST_ROWS]] if words.names else None,
    }


def _quarantine(facts: ReportFacts, words: Wording) -> dict[str, object]:
    """Return what the campaign left in quarantine; for a report on the present state what the scan can't read."""
    listed: Sequence[Mapping[str, object]]
    if facts.campaign is not None:
        total, counts = facts.campaign.quarantined_total, counts_json(facts.campaign.quarantined_by)
        listed = [one.to_json() for one in facts.campaign.quarantined[:MOST_ROWS]]
    elif facts.judged is not None:
        found = facts.judged.proof
        total, counts = found.unreadable, counts_json(found.unreadable_by)
        listed = [one.to_json() for tally in found.resources for one in tally.listed][:MOST_ROWS]
    else:
        return {"total": None, "by": [], "objects": None}
    shown = [{name: words.text(str(row[name])) for name in ("key", "reason", "detail")} for row in listed]
    return {
        "total": total,
        "by": [{**row, "resource": words.text(str(row["resource"]), _NAME)} for row in counts[:MOST_ROWS]],
        "objects": shown if words.names else None,
    }


def _keys(facts: ReportFacts, words: Wording) -> dict[str, object]:
    verdicts = {one.key: one for one in facts.judged.keys} if facts.judged else {}
    chained = (key for _, chain in facts.generation.resources for key in chain)
    every = list(dict.fromkeys((*verdicts, *chained)) if verdicts else dict.fromkeys(chained))
    primary, writes = writing(facts.generation), Counter(chain[0] for _, chain in facts.generation.resources)
    rows: list[dict[str, object]] = []
    for key in every[:MOST_ROWS]:
        verdict, budget = verdicts.get(key), facts.budgets.get(key.fingerprint)
        limit = budget.limit(facts.gcm_limit) if budget else None
        state = judge_state(budget, facts.generation, facts.gcm_limit, facts.due_at, facts.usage)[0] if budget else None
        rows.append(
            {
                **_key(key, words),
                "writes": key.fingerprint in primary,
                "resources": writes[key],
                "objects": verdict.objects if verdict else None,
                "used": budget.used if budget else None,
                "limit": limit,
                "state": state.value if state else None,
                "collision_probability": budget.collision_probability if budget else None,
                "removable": verdict.removable if verdict else None,
                "blockers": [words.text(one) for one in verdict.blockers[:_BLOCKERS]] if verdict else [],
            }
        )
    return {"total": len(every), "keys": rows, "blockers": _blockers(facts, words)}


def _blockers(facts: ReportFacts, words: Wording) -> list[dict[str, object]]:
    """Return each blocker of a removal once, with the number and the first of the keys that only read and have it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    primaries = {chain[0] for _, chain in facts.generation.resources}
    for one in facts.judged.keys if facts.judged else ():
        if one.key not in primaries:
            for blocker in one.blockers:
                found[blocker].append(one.key.name or one.key.provider)
    return [
        {
            "because": words.text(blocker),
            "total": len(names),
            "keys": [words.text(name, _NAME) for name in names[:_READS]],
        }
        for blocker, names in list(found.items())[:MOST_ROWS]
    ]


def _rotations(facts: ReportFacts, words: Wording) -> dict[str, object]:
    """Return the rotation that is the subject; else all on record, the newest first."""
    shown = [facts.rotation] if facts.rotation is not None else list(reversed(facts.rotations))
    return {
        "total": len(facts.rotations),
        "rotations": [_rotation(one, words) for one in shown[:_READS]],
    }


def _rotation(one: Rotation, words: Wording) -> dict[str, object]:
    return {
        "id": one.id,
        "step": one.step.value,
        "because": words.text(one.because),
        "held": words.text(one.held) or None,
        "key": _key(KeyRef(one.provider, one.key_name, one.fingerprint), words),
        "retired": [_key(key, words) for key in one.retired[:_READS]],
        "resources": [words.text(name, _NAME) for name in one.resources[:_READS]],
        "resources_total": len(one.resources),
        "by_hand": one.by_hand,
        "prune": one.prune,
        "proof_revision": one.proof_revision or None,
        "passed": [
            {"step": passed.step.value, "at": words.text(passed.at, _NAME), "because": words.text(passed.because)}
            for passed in one.passed[:MOST_ROWS]
        ],
    }


def _apiservers(facts: ReportFacts, words: Wording) -> dict[str, object]:
    found = facts.convergence
    return {
        "at": facts.at,
        "converged": found.is_converged,
        "because": words.text(found.because),
        "assumed": words.text(found.assumed) if found.assumed is not None else None,
        "warnings": [words.text(one) for one in found.warnings[:_READS]],
        "total": len(found.replicas),
        "replicas": [
            {
                "address": words.text(one.address, _NAME) or None,
                "replica": words.text(one.name or one.id, _NAME) or None,
                "state": one.state.value,
                "file_hash": words.text(one.hash, _NAME) or None,
                "because": words.text(one.because),
            }
            for one in found.replicas[:MOST_ROWS]
        ],
    }


def _audit_log(facts: ReportFacts, words: Wording) -> dict[str, object]:
    found = facts.audit
    return {
        "whole": not found.faults,
        "anchored": is_anchored(found.head),
        "entries": found.entries,
        "first": _entry(found.first, words) if found.first else None,
        "last": _entry(found.last, words) if found.last else None,
        "faults_total": len(found.faults),
        "faults": [words.text(one) for one in found.faults[:_READS]],
        "trail": [_entry(one, words) for one in facts.trail[-MOST_ROWS:]],
    }


def _entry(entry: Entry, words: Wording) -> dict[str, object]:
    """Return an entry without its details, which may name objects; its hash covers them."""
    return {
        "number": entry.number,
        "at": words.text(entry.at, _NAME),
        "event": words.text(entry.event, _NAME),
        "actor": words.text(entry.actor, _NAME),
        "hash": words.text(entry.hash, _NAME),
    }


def _checklist(judged: HardeningFacts | None, words: Wording) -> dict[str, object] | None:
    if judged is None:
        return None
    checks = judge(judged)
    rows = [
        {**row, "reason": words.text(str(row["reason"])), "remedy": words.text(str(row["remedy"]))}
        for row in map(finding_json, checks)
    ]
    return {"revision": judged.proof.revision, "checks": rows, "summary": summarise(checks)}


def _backups(judged: HardeningFacts | None, words: Wording) -> dict[str, object] | None:
    """Return what the catalogue says; None without one, or without a scan."""
    catalogue = judged.catalogue if judged else None
    if judged is None or catalogue is None:
        return None
    kept = catalogue.kept(judged.now)
    keys, given = needed(kept), {key.fingerprint for _, chain in judged.generation.resources for key in chain}
    return {
        **catalogue_json(catalogue, kept),
        "distrust": words.text(catalogue.distrust) or None,
        "keys_total": len(keys),
        "keys": [
            {
                **_key(key, words),
                "backups": len(needing),
                "until": last_end(needing),
                "configured": key.fingerprint in given,
            }
            for key, needing in islice(keys.items(), MOST_ROWS)
        ],
    }


def is_proven(document: dict[str, object]) -> bool:
    """Whether a document's verdict is a proof, with caveats or without."""
    verdict = document["verdict"]
    return isinstance(verdict, dict) and verdict["state"] != "not_proven"
