"""What a configuration says without its keys: from the file to the record and back."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.worker.errors import RecordChangedError, RecordError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)

SPACE = Keyspace()
MATERIAL = b"canary-canary-canary-canary-0001"
SECRET = base64.b64encode(MATERIAL).decode()
FINGERPRINT = SecretBytes(MATERIAL).fingerprint("aescbc")

TEXT = f"""apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, widgets.example.com]
  providers:
  - aescbc: {{keys: [{{name: "2024-01-01T00:00:00Z", secret: {SECRET}}}]}}
  - identity: {{}}
- resources: [configmaps]
  providers:
  - kms: {{apiVersion: v2, name: vault, endpoint: "unix:///run/kms.sock"}}
  - secretbox: {{keys: [{{name: box, secret: {SECRET}}}]}}
- resources: ["*.apps"]
  providers: [identity: {{}}]
- resources: [secrets]
  providers:
  - aescbc: {{keys: [{{name: late, secret: {SECRET}}}]}}
- resources: ["*.*"]
  providers: [identity: {{}}]
"""

GENERATION = load_generation(TEXT.encode(), "encryption.yaml")
CBC = KeyRef("aescbc", "2024-01-01T00:00:00Z", FINGERPRINT)
LATE = KeyRef("aescbc", "late", FINGERPRINT)
BOX = KeyRef("secretbox", "box", SecretBytes(MATERIAL).fingerprint("secretbox"))
KMS = KeyRef("kms", "vault", "v2")
SOCKETS = (("v2:vault", "489b6240cca1acd3"),)
PLAIN = KeyRef("identity", "", "-")

RECORD = GenerationRecord(
    GENERATION.hash,
    (
        ("secrets", (CBC, PLAIN, LATE)),
        ("widgets.example.com", (CBC, PLAIN)),
        ("configmaps", (KMS, BOX)),
        ("*.apps", (PLAIN,)),
        ("*.*", (PLAIN,)),
    ),
    sockets=SOCKETS,
)

REFS = st.builds(KeyRef, st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
RECORDS = st.builds(
    GenerationRecord,
    st.text(),
    st.lists(st.tuples(st.text(max_size=5), st.lists(REFS, min_size=1, max_size=3).map(tuple)), max_size=5).map(tuple),
    st.text(min_size=1),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3).map(tuple),
)


def test_each_resource_has_its_chain_also_under_kms_and_from_several_entries() -> None:
    assert describe(GENERATION) == RECORD


def test_neither_the_record_nor_its_repr_holds_key_material() -> None:
    shown = repr(describe(GENERATION)) + encode(describe(GENERATION).to_json()).decode()
    assert MATERIAL.decode() not in shown
    assert SECRET not in shown
    assert MATERIAL.hex() not in shown


def test_neighbours_under_one_chain_share_it() -> None:
    cbc = ["aescbc", "2024-01-01T00:00:00Z", FINGERPRINT]
    plain = ["identity", "", "-"]
    assert RECORD.to_json() == {
        "hash": GENERATION.hash,
        "sockets": [list(SOCKETS[0])],
        "chains": [
            {"resources": ["secrets"], "keys": [cbc, plain, ["aescbc", "late", FINGERPRINT]]},
            {"resources": ["widgets.example.com"], "keys": [cbc, plain]},
            {"resources": ["configmaps"], "keys": [["kms", "vault", "v2"], ["secretbox", "box", BOX.fingerprint]]},
            {"resources": ["*.apps", "*.*"], "keys": [plain]},
        ],
    }


@given(RECORDS)
def test_a_record_comes_back_from_json_as_it_was(record: GenerationRecord) -> None:
    assert GenerationRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"hash": 1, "chains": []}, id="a number for a hash"),
        pytest.param({"hash": "h", "chains": {}}, id="a mapping of chains"),
        pytest.param({"hash": "h", "chains": [["secrets"]]}, id="a list for a chain"),
        pytest.param({"hash": "h", "chains": [{"resources": ["a"], "keys": []}]}, id="a chain without a key"),
        pytest.param({"hash": "h", "chains": [{"resources": [1], "keys": [["a", "b", "c"]]}]}, id="no name"),
        pytest.param({"hash": "h", "chains": [{"resources": ["a"], "keys": [["a", "b"]]}]}, id="half a key"),
        pytest.param({"hash": "h", "chains": [{"resources": ["a"], "keys": [["a", "b", 3]]}]}, id="a number in a key"),
    ],
)
async def test_a_damaged_record_is_named(fields: dict[str, object]) -> None:
    store = MemoryStore()
    store.put(SPACE.generation, encode(fields))
    with pytest.raises(RecordError, match=r"^the record /kube-rewrap/v1/generation is damaged: "):
        await Generations(store, SPACE).load()


async def test_before_any_scheduler_there_is_no_record() -> None:
    assert await Generations(MemoryStore(), SPACE).load() is None


async def test_what_was_saved_is_loaded_with_the_revision_to_write_over() -> None:
    states = Generations(MemoryStore(), SPACE)
    first = await states.save(Stored(History(RECORD)))
    assert await states.load() == first == Stored(History(RECORD), first.revision)
    other = GenerationRecord("sha256:1", (("secrets", (PLAIN,)),))
    second = await states.save(first.holding(first.value.followed_by(other)))
    assert await states.load() == second == Stored(History(other, (RECORD.hash,)), second.revision)
    assert second.revision > first.revision


async def test_a_write_over_another_version_is_fenced() -> None:
    states = Generations(MemoryStore(), SPACE)
    first = await states.save(Stored(History(RECORD)))
    await states.save(first)
    for stale in (0, first.revision):
        with pytest.raises(RecordChangedError):
            await states.save(replace(first, revision=stale))


def test_what_was_in_force_before_is_remembered_in_order_and_once() -> None:
    names = ["a", "b", "a", "c", "b"]
    stored = History(replace(RECORD, hash=names[0]))
    for name in names[1:]:
        stored = stored.followed_by(replace(RECORD, hash=name))
        assert name not in stored.former
    assert stored.former == ("a", "c")
    for number in range(300):
        stored = stored.followed_by(replace(RECORD, hash=str(number)))
    assert (len(stored.former), stored.former[-1]) == (200, "298")


async def test_without_the_leaders_lock_nothing_is_written() -> None:
    store = MemoryStore()
    with pytest.raises(RecordChangedError):
        await Generations(store, SPACE, [Expect(SPACE.leader, 1, created=True)]).save(Stored(History(RECORD)))
    assert await store.get(SPACE.generation) is None
