"""Batches tile the scope: no gap, no overlap, small namespaces together, big ones cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.scheduler.campaigns.batches import BATCH_NAMESPACES, plan_batches
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.census import BATCH_OBJECTS, NamespaceCount, ResourceCensus
from kube_rewrap.worker.records.inventory import ResourceRange

ROOT = b"/registry/secrets/"
COVERED = ResourceRange("secrets", KeyRange.of_prefix(ROOT))


def namespace(name: str, objects: int, *cuts: str) -> NamespaceCount:
    start = ROOT + name.encode() + b"/"
    return NamespaceCount(name, start, objects, tuple(start + cut.encode() for cut in cuts))


def plan(*namespaces: NamespaceCount) -> list[BatchSpec]:
    return plan_batches("c", "sha256:0", [ResourceCensus(COVERED.resource, COVERED.range, namespaces)])


@pytest.mark.parametrize(
    ("namespaces", "batches"),
    [
        pytest.param([], [[]], id="nothing there => one batch all the same, for what comes"),
        pytest.param([namespace("a", 1)], [[("a", 1)]], id="one object => one batch"),
        pytest.param(
            [namespace("a", 500), namespace("b", 1_500)],
            [[("a", 500), ("b", 1_500)]],
            id="neighbours that just fit share",
        ),
        pytest.param(
            [namespace("a", 500), namespace("b", 1_501)],
            [[("a", 500)], [("b", 1_501)]],
            id="neighbours that do not fit are apart",
        ),
        pytest.param(
            [namespace("a", 1), namespace("b", 4_500, "2000", "4000"), namespace("c", 1)],
            [[("a", 1)], [("b", 2_000)], [("b", 2_000)], [("b", 500)], [("c", 1)]],
            id="a big namespace is cut, and shares with nobody",
        ),
        pytest.param(
            [namespace("a", 3_000, "2000"), namespace("b", 1)],
            [[("a", 2_000)], [("a", 1_000)], [("b", 1)]],
            id="the rest of a big namespace takes no neighbour in",
        ),
        pytest.param(
            [namespace(f"n{number:03d}", 1) for number in range(BATCH_NAMESPACES + 1)],
            [[(f"n{number:03d}", 1) for number in range(BATCH_NAMESPACES)], [(f"n{BATCH_NAMESPACES:03d}", 1)]],
            id="no more namespaces in a batch than its record should hold",
        ),
    ],
)
def test_grouping(namespaces: list[NamespaceCount], batches: list[list[tuple[str, int]]]) -> None:
    assert [list(batch.namespaces) for batch in plan(*namespaces)] == batches


def test_a_batch_begins_where_the_one_before_it_ends() -> None:
    ranges = [batch.range for batch in plan(namespace("a", 1_999), namespace("b", 2), namespace("c", 2_100, "m"))]
    assert ranges == [
        KeyRange(ROOT, ROOT + b"b/"),
        KeyRange(ROOT + b"b/", ROOT + b"c/"),
        KeyRange(ROOT + b"c/", ROOT + b"c/m"),
        KeyRange(ROOT + b"c/m", b"/registry/secrets0"),
    ]


def test_numbers_run_on_over_the_resources() -> None:
    other = ResourceRange("configmaps", KeyRange.of_prefix(b"/registry/configmaps/"))
    census = [
        ResourceCensus(other.resource, other.range, (NamespaceCount("a", b"/registry/configmaps/a/", 1),)),
        ResourceCensus(COVERED.resource, COVERED.range, (namespace("a", 1),)),
    ]
    batches = plan_batches("c", "sha256:0", census)
    assert [(batch.number, batch.resource, batch.range) for batch in batches] == [
        (0, "configmaps", other.range),
        (1, "secrets", COVERED.range),
    ]
    assert {(batch.campaign, batch.generation) for batch in batches} == {("c", "sha256:0")}


@st.composite
def namespaces(draw: st.DrawFn) -> list[NamespaceCount]:
    names = sorted(draw(st.sets(st.from_regex(r"[a-z]{1,3}", fullmatch=True), min_size=1, max_size=40)))
    found = []
    for name in names:
        objects = draw(st.integers(1, 3 * BATCH_OBJECTS))
        cuts = [f"{number:06d}" for number in range(BATCH_OBJECTS, objects, BATCH_OBJECTS)]
        found.append(namespace(name, objects, *cuts))
    return sorted(found, key=lambda one: one.start)


@given(namespaces())
def test_batches_tile_the_scope_and_keep_every_object(found: list[NamespaceCount]) -> None:
    batches = plan(*found)
    edges = [batches[0].range.start, *(batch.range.end for batch in batches)]
    assert edges == [COVERED.range.start, *(batch.range.start for batch in batches[1:]), COVERED.range.end]
    assert edges == sorted(set(edges))
    assert sum(batch.objects for batch in batches) == sum(one.objects for one in found)
    assert all(batch.objects <= BATCH_OBJECTS for batch in batches)
    assert all(len(batch.namespaces) <= BATCH_NAMESPACES for batch in batches)
    assert [batch.number for batch in batches] == list(range(len(batches)))
