"""Hypothesis' strategies for every kind of record."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.fields import MOST, MOST_BATCHES, NAME, NAMESPACE
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.budget import Budget, Landed, Mark, Own, Sight
from kube_rewrap.worker.records.campaign import FASTEST, Campaign, CampaignOptions, CampaignState, Growth, Pause, Scope
from kube_rewrap.worker.records.inventory import Inventory, KeyTally, ResourceRange, ResourceTally, Unreadable
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Origin, Request, RequestKind, RequestState
from kube_rewrap.worker.records.scan import Scan, UnreadableCount
from kube_rewrap.worker.records.tries import Tries
from kube_rewrap.worker.records.usage import Haste, Interval, Usage
from kube_rewrap.worker.verdict import KeyRef, Reason

COUNTS = st.integers(0, MOST)
NUMBERS = st.integers(0, MOST_BATCHES)
IDS = st.from_regex(NAME, fullmatch=True)
TIMES = st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
TEXTS = st.text(max_size=20)
ETCD_KEYS = st.binary(max_size=30)
RANGES = st.tuples(ETCD_KEYS, ETCD_KEYS).map(sorted).map(lambda ends: KeyRange(*ends))
REPORTS = st.builds(BatchReport, *[COUNTS] * 11)
SPECS = st.builds(
    BatchSpec, IDS, NUMBERS, TEXTS, RANGES, TEXTS, st.lists(st.tuples(TEXTS, COUNTS), max_size=4).map(tuple)
)
MOMENTS = st.floats(0, 2**40)
REASONS = st.dictionaries(st.sampled_from(Reason), COUNTS, max_size=3)
CHECKPOINTS = st.builds(
    Checkpoint, SPECS, st.sampled_from(BatchState), ETCD_KEYS, REPORTS, COUNTS, COUNTS, MOMENTS, TEXTS, REASONS
)
NAMES = st.lists(TEXTS, max_size=4).map(tuple)
SCOPES = st.builds(Scope, NAMES, st.lists(st.from_regex(NAMESPACE, fullmatch=True), max_size=2).map(tuple))
WISHES = st.builds(
    CampaignOptions, TEXTS, st.just(0.0) | st.floats(1, FASTEST), st.integers(-100, 100), *[st.booleans()] * 4, COUNTS
)
CAMPAIGNS = st.builds(
    Campaign,
    *(IDS, st.sampled_from(CampaignState), TEXTS, SCOPES, NUMBERS, TIMES, TEXTS, st.integers(1, MOST), COUNTS),
    *(
        WISHES,
        st.none() | st.sampled_from(Pause),
        st.just("") | TIMES,
        st.builds(Growth, COUNTS, COUNTS, st.none() | COUNTS),
        st.booleans(),
    ),
)
REQUESTS = st.builds(
    Request,
    *(IDS, st.sampled_from(RequestKind), TIMES, st.sampled_from(Origin), NAMES, NAMES, WISHES),
    *(st.sampled_from(RequestState), st.just("") | IDS, TEXTS),
)
KEYS = st.builds(KeyRef, TEXTS, TEXTS, TEXTS)
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
    rest = draw(NUMBERS), draw(ETCD_KEYS), partial
    return ProofPart(draw(IDS), draw(NUMBERS), revision, draw(TEXTS), ranges, found, draw(st.booleans()), *rest)


SWAPS = st.lists(st.builds(Landed, *[COUNTS] * 3), max_size=3).map(tuple)
BUDGETS = st.builds(
    Budget,
    TEXTS,
    TEXTS,
    st.lists(TEXTS, max_size=3).map(tuple),
    COUNTS,
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
    *(TEXTS, COUNTS, MOMENTS, COUNTS, COUNTS, st.booleans(), MOMENTS),
    st.lists(st.builds(UnreadableCount, PRINTABLE, st.sampled_from(Reason), COUNTS), max_size=3).map(tuple),
)
TRIES = st.builds(Tries, st.dictionaries(st.text("0123456789abcdef", min_size=32, max_size=32), MOMENTS, max_size=3))
SMALL = st.integers(0, 2**53)
USAGES = st.builds(
    Usage,
    st.lists(st.builds(Interval, SMALL, SMALL, st.dictionaries(TEXTS, SMALL, max_size=3)), max_size=3).map(tuple),
    st.dictionaries(TEXTS, st.builds(Haste, SMALL, SMALL, SMALL), max_size=3),
)
