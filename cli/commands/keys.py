"""`rewrap keys`: shows write budgets and which keys are removable; accepts a restored budget."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from kube_rewrap.cli.destruction_reports import destruction_json, print_destruction
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_generation, read_settings
from kube_rewrap.cli.output import print_json, print_sentence, print_table, say
from kube_rewrap.cli.reports import print_blockers
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.scheduler.backups.catalogue_file import read_catalogue
from kube_rewrap.scheduler.backups.keys import read_copies
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.keys.alerts import judge_state, reached_at
from kube_rewrap.scheduler.keys.destruction import Destruction
from kube_rewrap.scheduler.keys.destruction_facts import candidates
from kube_rewrap.scheduler.keys.last_look import judge_in_cluster
from kube_rewrap.scheduler.keys.removal import KeyVerdict
from kube_rewrap.scheduler.keys.removal_facts import RemovalVerdicts, known_verdicts
from kube_rewrap.scheduler.registry.arguments import no_budget, require_budget
from kube_rewrap.scheduler.registry.budgets import accept_budget, foresee_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster, open_cluster_to_look
from kube_rewrap.worker.records.budget import LIMITED_PROVIDER, Budget, BudgetState
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.usage import DueByRate
from kube_rewrap.worker.records.usages import Usages
from kube_rewrap.worker.wrapped import fingerprint_of

NOTE = (
    "`used` counts the encryptions of this tool, and the writes of others that a scheduler observed. Writes before a "
    "key was first seen are estimated from the objects that existed then, which leaves out deleted ones. Writes of "
    "kube-apiserver while no scheduler observes are not counted."
)

KMS_NOTE = (
    "A KMS provider has no write budget: each object has a data key of its own, so no key wears. The settings v1_rate "
    "and v2_rate limit the calls to its plugin, not the writes under a key."
)

_FAR = 253_402_300_799.0  # the end of the year 9999

_COLUMNS = (
    *("fingerprint", "provider", "names", "reserved", "observed", "estimated", "used"),
    *("limit", "state", "collision_probability", "limit_reached_at", "removable"),
)
_KMS_COLUMNS = ("provider", "version", "kek", "in_force_since", "objects", "removable")


def run(args: argparse.Namespace) -> int:
    """Print the budgets of all configured keys.

    Exit 2 when --accept names a key without a budget, 5 when a KMS plugin does not serve.
    """
    return run_async(lambda: _keys(args))


async def _keys(args: argparse.Namespace) -> int:
    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    if args.accept is not None:
        await require_budget(settings, generation, args.accept)
    async with open_cluster_to_look(settings, generation) as cluster:
        await _accept(cluster, args.accept)
        seen = (await ObserverRecords(cluster.engine.store, cluster.engine.keyspace).load()).value
        budgets = list((await foresee_budgets(cluster)).values())
        until = max([seen.until, *(budget.until for budget in budgets)])  # an observer may have advanced meanwhile
        beyond = max(0, await cluster.engine.store.revision() + 1 - until)
        usage = (await Usages(cluster.engine.store, cluster.engine.keyspace).load()).value
        keks = [stored.value for stored in await Keks(cluster.engine.store, cluster.engine.keyspace).all()]
        judged = None if args.no_scan else await brake_on_signals().unless_pulled(known_verdicts(cluster, settings))
        generation = cluster.generation
        destruction = await _destruction(args, settings.backups.catalogue, cluster, judged)
    verdicts, missing = (judged.keys, judged.missing) if judged else ((), "")
    described = describe(generation)
    configured = {key.fingerprint for _, chain in described.resources for key in chain}
    states = {
        budget.fingerprint: judge_state(budget, described, settings.budget.gcm_limit, settings.budget.due_at, usage)
        for budget in budgets
    }
    rows = [_row(budget, settings.budget, states[budget.fingerprint], seen.since, verdicts) for budget in budgets]
    kms = _kms_rows(generation, keks, verdicts, _named_keks(judged.proof) if judged else {})
    code = Exit.UNREACHABLE if missing else Exit.DONE
    if args.output == "json":
        reached = {"observed_until": until or None, "revisions_since": beyond if until else None}
        document = {"keys": rows, "kms": kms, **reached, "missing": missing or None, "note": NOTE}
        print_json({**document, "kms_note": KMS_NOTE, "destruction": destruction_json(destruction)})
        return code
    heads = [column.upper().replace("_", " ") for column in _COLUMNS]
    shown = [row if row["fingerprint"] in configured else {**row, "state": "not in file"} for row in rows]
    print_table(heads, [[_cell(row[column]) for column in _COLUMNS] for row in shown])
    say()
    if kms:
        heads = ["KMS PROVIDER", *(column.upper().replace("_", " ") for column in _KMS_COLUMNS[1:])]
        print_table(heads, [[_cell(row[column]) for column in _KMS_COLUMNS] for row in kms])
        print_sentence(KMS_NOTE)
        say()
    for budget in budgets:
        if budget.fingerprint in configured:
            for remark in _remarks(budget, states[budget.fingerprint], settings.budget):
                print_sentence(f"{', '.join(budget.names)}{remark}")
    if not args.no_scan:
        print_blockers(verdicts)
        say()
    print_destruction(destruction)
    if until:
        say(f"Observed until revision {until}; at most {beyond} later writes are not counted.")
    else:
        say("No scheduler has observed the writes of others yet.")
    print_sentence(NOTE)
    if missing:
        say(f"Missing: {missing}")
    return code


async def _destruction(
    args: argparse.Namespace, path: str | None, cluster: Cluster, judged: RemovalVerdicts | None
) -> list[Destruction] | None:
    """Return the verdicts on the destruction of keys; None without a catalogue. Raises SourceError, WorkerError."""
    if path is None:
        return None
    archived = read_copies(args.keys, allow_readable=args.allow_readable_config)
    read = partial(read_catalogue, path)
    found = candidates(cluster.generation, archived, judged, read())
    return await brake_on_signals().unless_pulled(judge_in_cluster(cluster, found, judged, read, time.time()))


async def _accept(cluster: Cluster, fingerprint: str | None) -> None:
    if fingerprint is not None and await accept_budget(cluster, fingerprint) is None:
        raise no_budget()


def _remarks(budget: Budget, judged: tuple[BudgetState, DueByRate | None], settings: BudgetSettings) -> Iterator[str]:
    """Yield what there is to say of a key below the table; each text follows the key's names."""
    state, by_rate = judged
    if state is BudgetState.DUE:
        yield f" is due: {_due_because(by_rate, settings)}"
    if _is_uncertain(budget):
        yield f": {_uncertainty(budget)}"
    if (unused := budget.reserved - _committed(budget)) > 0:
        yield (
            f": for {unused:,} of its {budget.reserved:,} reserved writes no written object is on record: rewrap "
            "reserves writes in blocks before it encrypts; the rest of a block, and what a crash loses, counts as used"
        )


def _due_because(by_rate: DueByRate | None, settings: BudgetSettings) -> str:
    return by_rate.because if by_rate is not None else f"{settings.due_at:.0%} of its limit is used"


def _is_uncertain(budget: Budget) -> bool:
    """Return whether a key with a limit may have encrypted more than its estimate."""
    return budget.provider == LIMITED_PROVIDER and budget.estimated_at_most != budget.estimated


def _uncertainty(budget: Budget) -> str:
    most = budget.estimated_at_most
    bound = "how many those were is not known" if most is None else f"with those they are {most:,} at most"
    if not budget.estimated:
        return f"its earlier writes to objects that are deleted since are not counted; {bound}"
    return f"{budget.estimated:,} of its writes are an estimate, which leaves out deleted objects; {bound}"


def _committed(budget: Budget) -> int:
    return sum(own.count for own in budget.own.values())


def _row(
    budget: Budget,
    settings: BudgetSettings,
    judged: tuple[BudgetState, DueByRate | None],
    since: Mapping[str, int],
    verdicts: Sequence[KeyVerdict],
) -> dict[str, object]:
    state, by_rate = judged
    reached = reached_at(budget, settings.gcm_limit, since.get(budget.fingerprint, 0), time.time())
    verdict = next((one for one in verdicts if one.key.fingerprint == budget.fingerprint), None)
    return {
        "fingerprint": budget.fingerprint,
        "provider": budget.provider,
        "names": list(budget.names),
        "reserved": budget.reserved,
        "committed": _committed(budget),
        "observed": budget.observed,
        "estimated": budget.estimated,
        "estimated_at_most": budget.estimated_at_most,
        "used": budget.used,
        "limit": budget.limit(settings.gcm_limit),
        "state": state.value,
        "due_because": _due_because(by_rate, settings) if state is BudgetState.DUE else None,
        "collision_probability": budget.collision_probability,
        "limit_reached_at": _date(reached),
        "removable": verdict.removable if verdict else None,
        "blockers": list(verdict.blockers) if verdict else [],
    }


def _kms_rows(
    generation: Generation,
    keks: Iterable[Kek],
    verdicts: Sequence[KeyVerdict],
    found: Mapping[tuple[str, str], Mapping[str | None, int]],
) -> list[dict[str, object]]:
    """Return the KEKs of each KMS provider, the one in force first; one row of v1.

    The KEKs of a provider of which none is judged, as it only reads or its plugin is down, are those that `found` has.
    """
    known = {kek.provider: kek for kek in keks}
    rows: list[dict[str, object]] = []
    for name, version in dict.fromkeys((one.name, one.api_version) for one in generation.kms_providers):
        kek = known.get(name) if version == "v2" else None
        keys = [one for one in verdicts if one.key.provider == ProviderType.KMS and one.key.name == name]
        judged: list[KeyVerdict | None] = [one for one in keys if one.key.version.startswith(version)]
        in_force = _in_force(generation, name, kek) if version == "v2" else None
        for one in judged or [None]:
            for shown, objects in _under(one, in_force, found).items():
                rows.append(_kms_row((name, version), kek, one, shown=shown, objects=objects))
    return rows


def _in_force(generation: Generation, name: str, kek: Kek | None) -> str | None:
    """Return the KEK that the plugin of a KMS v2 provider names, or the one on record, by its fingerprint."""
    if name in generation.targets:
        return fingerprint_of(generation.targets[name])
    return None if kek is None else kek.fingerprint


def _under(
    verdict: KeyVerdict | None, in_force: str | None, found: Mapping[tuple[str, str], Mapping[str | None, int]]
) -> Mapping[str | None, int | None]:
    """Return the KEKs to show of one verdict, each with its objects; None where it is not known."""
    if verdict is None:
        return {in_force: None}
    if verdict.key.is_kek:
        return {verdict.key.fingerprint: verdict.objects}
    named = found.get((verdict.key.name, verdict.key.version), {})
    return dict(named) or {in_force: verdict.objects}


def _named_keks(proof: Inventory) -> Mapping[tuple[str, str], Mapping[str | None, int]]:
    """Return the objects under each KEK that values name, by the name and version of their KMS v2 provider."""
    found: defaultdict[tuple[str, str], Counter[str | None]] = defaultdict(Counter)
    for tally in proof.resources:
        for key, under in sorted(tally.keys.items()):
            if key.is_kek:
                found[key.name, key.version][key.kek.fingerprint] += under.objects
    return found


def _kms_row(
    provider: tuple[str, str], kek: Kek | None, verdict: KeyVerdict | None, *, shown: str | None, objects: int | None
) -> dict[str, object]:
    name, version = provider
    return {
        "provider": name,
        "version": version,
        "kek": shown,
        "in_force_since": _date(kek.since) if kek and shown == kek.fingerprint else None,
        "objects": objects,
        "removable": verdict.removable if verdict else None,
        "blockers": list(verdict.blockers) if verdict else [],
    }


def _date(reached: float | None) -> str | None:
    """Return the date of a time, without the hour, which for an estimate would be false precision; None if far."""
    if reached is None or reached > _FAR:
        return None
    return datetime.fromtimestamp(reached, UTC).date().isoformat()


def _cell(value: object) -> object:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case float():
            return f"{value:.1e}" if value else "0"
    return value
