"""Hypothesis' strategies for every kind of record."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import get_args

from hypothesis import strategies as st

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.fields import MOST, MOST_BATCHES, NAME, NAMESPACE
from kube_rewrap.worker.kms.counts import LATENCY_BOUNDS, CallOutcome, Calls, Method
from kube_rewrap.worker.queue.plugin_report import PluginReport
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.budget import Budget, Landed, Mark, Own, Sight
from kube_rewrap.worker.records.campaign import (
    FASTEST,
    Campaign,
    CampaignOptions,
    CampaignState,
    Pause,
    QuarantineLimit,
    Scope,
)
from kube_rewrap.worker.records.inventory import Inventory, KeyState, KeyTally, ResourceRange, ResourceTally, Unreadable
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.proof_counts import KeyCount, ProofCounts
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Origin, Request, RequestKind, RequestState
from kube_rewrap.worker.records.scan import Scan, UnreadableCount
from kube_rewrap.worker.records.tries import Tries
from kube_rewrap.worker.records.usage import DueByRate, Interval, Usage
from kube_rewrap.worker.verdict import KeyRef, Reason
from kube_rewrap.worker.wrapped import KmsVersion, hash_of_key_id, provider_label

COUNTS = st.integers(0, MOST)
NUMBERS = st.integers(0, MOST_BATCHES)
IDS = st.from_regex(NAME, fullmatch=True)
TIMES = st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
TEXTS = st.text(max_size=20)
ETCD_KEYS = st.binary(max_size=30)
RANGES = st.tuples(ETCD_KEYS, ETCD_KEYS).map(sorted).map(lambda ends: KeyRange(*ends))
REPORTS = st.builds(BatchReport, **{one.name: COUNTS for one in fields(BatchReport)})
SPECS = st.builds(
    BatchSpec,
    campaign=IDS,
    number=NUMBERS,
    resource=TEXTS,
    range=RANGES,
    generation=TEXTS,
    namespaces=st.lists(st.tuples(TEXTS, COUNTS), max_size=4).map(tuple),
)
MOMENTS = st.floats(0, 2**40)
REASONS = st.dictionaries(st.sampled_from(Reason), COUNTS, max_size=3)
CHECKPOINTS = st.builds(
    Checkpoint,
    spec=SPECS,
    state=st.sampled_from(BatchState),
    cursor=ETCD_KEYS,
    report=REPORTS,
    attempts=COUNTS,
    stalled=COUNTS,
    tried_at=MOMENTS,
    because=TEXTS,
    reasons=REASONS,
)
NAMES = st.lists(TEXTS, max_size=4).map(tuple)
SCOPES = st.builds(Scope, NAMES, st.lists(st.from_regex(NAMESPACE, fullmatch=True), max_size=2).map(tuple))
OPTIONS = st.builds(
    CampaignOptions,
    reason=TEXTS,
    rate=st.just(0.0) | st.floats(1, FASTEST),
    priority=st.integers(-100, 100),
    allow_plaintext=st.booleans(),
    paused=st.booleans(),
    allow_empty=st.booleans(),
    repair=st.booleans(),
    since=COUNTS,
)
KEYS = st.builds(KeyRef, TEXTS, TEXTS, TEXTS)
KEY_COUNTS = st.builds(KeyCount, TEXTS, KEYS, st.sampled_from(KeyState), COUNTS)
PROOF_COUNTS = st.builds(ProofCounts, *(COUNTS,) * 4, st.lists(KEY_COUNTS, max_size=3).map(tuple))
CAMPAIGNS = st.builds(
    Campaign,
    id=IDS,
    state=st.sampled_from(CampaignState),
    generation=TEXTS,
    scope=SCOPES,
    batches=NUMBERS,
    planned_at=TIMES,
    because=TEXTS,
    sweeps=st.integers(1, MOST),
    proof_revision=COUNTS,
    options=OPTIONS,
    paused_for=st.none() | st.sampled_from(Pause),
    ended_at=st.just("") | TIMES,
    quarantine_limit=st.builds(QuarantineLimit, COUNTS, COUNTS, st.none() | COUNTS),
    whole=st.booleans(),
    proof_counts=st.none() | PROOF_COUNTS,
    convergence=TEXTS,
)
REQUESTS = st.builds(
    Request,
    id=IDS,
    kind=st.sampled_from(RequestKind),
    asked_at=TIMES,
    origin=st.sampled_from(Origin),
    resources=NAMES,
    namespaces=NAMES,
    options=OPTIONS,
    state=st.sampled_from(RequestState),
    campaign=st.just("") | IDS,
    because=TEXTS,
)
TALLIES = st.builds(
    ResourceTally,
    *(TEXTS, KEYS, st.lists(KEYS, max_size=3).map(tuple)),
    st.dictionaries(KEYS, st.builds(KeyTally, COUNTS, COUNTS, COUNTS), max_size=3),
    st.dictionaries(KEYS, COUNTS, max_size=3),
    COUNTS,
    st.lists(st.builds(Unreadable, ETCD_KEYS, st.sampled_from(Reason), TEXTS), max_size=3),
    *(REASONS, COUNTS, COUNTS),
)


@st.composite
def proof_parts(draw: st.DrawFn) -> ProofPart:
    revision = draw(COUNTS)
    found = draw(st.none() | st.lists(TALLIES, max_size=2).map(lambda tallies: Inventory(revision, tuple(tallies))))
    ranges = draw(st.lists(st.builds(ResourceRange, TEXTS, RANGES), max_size=2).map(tuple))
    partial = found if draw(st.booleans()) else None
    return ProofPart(
        campaign=draw(IDS),
        number=draw(NUMBERS),
        revision=revision,
        generation=draw(TEXTS),
        ranges=ranges,
        found=found,
        compacted=draw(st.booleans()),
        of=draw(NUMBERS),
        cursor=draw(ETCD_KEYS),
        partial=partial,
        because=draw(TEXTS),
    )


SWAPS = st.lists(st.builds(Landed, *[COUNTS] * 3), max_size=3).map(tuple)
BUDGETS = st.builds(
    Budget,
    fingerprint=TEXTS,
    provider=TEXTS,
    names=st.lists(TEXTS, max_size=3).map(tuple),
    reserved=COUNTS,
    estimated=COUNTS,
    restored=st.booleans(),
    made_in=st.builds(Mark, st.integers(0, 2**64 - 1), st.integers(-MOST, MOST)),
    sights=st.dictionaries(TEXTS, st.builds(Sight, COUNTS, st.none() | COUNTS), max_size=3),
    born=COUNTS,
    own=st.dictionaries(TEXTS, st.builds(Own, COUNTS, COUNTS, SWAPS), max_size=3),
    watched=st.booleans(),
)
PRINTABLE = TEXTS.filter(str.isprintable)
SCANS = st.builds(
    Scan,
    generation=TEXTS,
    revision=COUNTS,
    at=MOMENTS,
    objects=COUNTS,
    stale=COUNTS,
    is_clean=st.booleans(),
    proven_at=MOMENTS,
    unreadable=st.lists(st.builds(UnreadableCount, PRINTABLE, st.sampled_from(Reason), COUNTS), max_size=3).map(tuple),
)
TRIES = st.builds(Tries, st.dictionaries(st.text("0123456789abcdef", min_size=32, max_size=32), MOMENTS, max_size=3))
SMALL = st.integers(0, 2**53)
USAGES = st.builds(
    Usage,
    st.lists(st.builds(Interval, SMALL, SMALL, st.dictionaries(TEXTS, SMALL, max_size=3)), max_size=3).map(tuple),
    st.dictionaries(TEXTS, st.builds(DueByRate, SMALL, SMALL, SMALL), max_size=3),
)
HASHES_OF_KEY_IDS = st.binary(max_size=8).map(lambda raw: hash_of_key_id(raw.hex()))
KEKS = st.builds(
    Kek,
    provider=TEXTS,
    target=HASHES_OF_KEY_IDS,
    since=MOMENTS,
    named=st.just("") | HASHES_OF_KEY_IDS,
    named_since=MOMENTS,
    former=st.lists(HASHES_OF_KEY_IDS, max_size=3).map(tuple),
)
SECONDS = st.integers(0, 2**40).map(lambda eighths: eighths / 8)  # exact after the rounding of a report
CALLS = st.builds(Calls, COUNTS, SECONDS, st.tuples(*[COUNTS] * len(LATENCY_BOUNDS)))
PLUGIN_REPORTS = st.builds(
    PluginReport,
    provider=TEXTS.map(provider_label),
    version=st.sampled_from(get_args(KmsVersion)),
    calls=st.dictionaries(st.tuples(st.sampled_from(Method), st.sampled_from(CallOutcome)), CALLS, max_size=3),
    failing=st.frozensets(st.sampled_from(Method)),
    status_age=st.none() | SECONDS,
    sources=COUNTS,
    seeds=COUNTS,
    refused=COUNTS,
)
