"""The plan of a rotation: its entries, the type and name of its key; and requests that it refuses."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import KeyedProvider, ProviderType
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import ConfigError, SettingsError
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.rotation.driver import fresh_key
from kube_rewrap.scheduler.rotation.edits import edit
from kube_rewrap.scheduler.rotation.request import RotationRequest, plan_rotation
from kube_rewrap.scheduler.rotation.transition import (
    Edit,
    Facts,
    Move,
    Need,
    ScanResult,
    Wait,
    aborted,
    advance,
    is_way_back,
    paused,
    prepared,
    resumed,
    withdrawing,
)
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.inventory import KeyState
from kube_rewrap.worker.records.proof_counts import KeyCount, ProofCounts
from kube_rewrap.worker.records.rotation import Passed, Rotation, RotationStep
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
STAMP = NOW.isoformat()
FRESH = SecretBytes(b"f" * 32)


def provider(kind: str, name: str) -> dict[str, object]:
    if kind == "identity":
        return {"identity": {}}
    if kind == "kms":
        return {"kms": {"apiVersion": "v2", "name": name, "endpoint": "unix:///kms.sock"}}
    return {kind: {"keys": [{"name": name, "secret": base64.b64encode(f"{kind}-{name}".ljust(32).encode()).decode()}]}}


def text(*entries: tuple[list[str], list[tuple[str, str]]]) -> bytes:
    return json.dumps(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {"resources": resources, "providers": [provider(*one) for one in providers]}
                for resources, providers in entries
            ],
        }
    ).encode()


SECRETS = (["secrets"], [("aesgcm", "a"), ("identity", "")])
EVENTS = (["events", "pods"], [("aescbc", "b"), ("secretbox", "c")])
PLAIN = (["configmaps"], [("identity", "")])
IDLE = (["deployments", "secrets.apps"], [("secretbox", "d")])
HALF = (["deployments.apps", "deployments"], [("aesgcm", "e")])
OUTSIDE = (["widgets.example.com"], [("kms", "k")])


def begun(raw: bytes, order: RotationRequest, taken: tuple[str, ...] = ()) -> Rotation:
    return plan_rotation(raw, "enc.json", order, taken, NOW, is_idle=is_idle)


def is_idle(name: str) -> bool:
    return Layout().why_idle(GroupResource.parse(name)) is not None


def test_without_a_word_every_entry_gets_a_key_of_the_present_type() -> None:
    rotation = begun(text(SECRETS), RotationRequest())
    assert (rotation.entries, rotation.resources, rotation.provider) == ((0,), ("secrets",), "aesgcm")
    assert (rotation.step, rotation.key_name) == (RotationStep.ADD, "key-20260203")
    assert [key.name for key in rotation.retired] == ["a"]
    assert rotation.id.startswith("20260203-040506-")


def test_a_resource_chooses_the_entries_that_name_it() -> None:
    rotation = begun(text(SECRETS, EVENTS), RotationRequest(resources=("pods",)))
    assert (rotation.entries, rotation.resources, rotation.provider) == ((1,), ("events", "pods"), "aescbc")


def test_an_entry_whose_names_govern_nothing_gets_no_key() -> None:
    rotation = begun(text(IDLE, SECRETS, HALF), RotationRequest())
    assert (rotation.entries, rotation.resources) == ((1, 2), ("secrets", "deployments.apps"))
    assert (rotation.provider, [key.name for key in rotation.retired]) == ("aesgcm", ["a", "e"])


def test_a_name_that_a_key_once_had_is_not_given_again() -> None:
    assert begun(text(SECRETS), RotationRequest(), ("key-20260203", "key-20260203-2")).key_name == "key-20260203-3"


def test_plaintext_is_retired_like_a_key() -> None:
    rotation = begun(text(PLAIN), RotationRequest(provider=ProviderType.SECRETBOX))
    assert rotation.retired == (KeyRef("identity", "", PLAINTEXT_FINGERPRINT),)


@pytest.mark.parametrize(
    ("raw", "order", "words"),
    [
        pytest.param(
            text(SECRETS, EVENTS),
            RotationRequest(),
            "written with aescbc, aesgcm: what shall the new key be for",
            id="two types",
        ),
        pytest.param(
            text(PLAIN), RotationRequest(), "written with identity: what shall the new key be for", id="plaintext"
        ),
        pytest.param(
            text(SECRETS),
            RotationRequest(resources=("pods",)),
            "no entry of the file names pods",
            id="no entry names it",
        ),
        pytest.param(
            text(SECRETS, IDLE),
            RotationRequest(resources=("deployments",)),
            "deployments, secrets.apps: governs nothing",
            id="idle",
        ),
        pytest.param(text(OUTSIDE), RotationRequest(), "written with kms: what shall the new key be for", id="KMS"),
    ],
)
def test_what_is_refused(raw: bytes, order: RotationRequest, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        begun(raw, order)


def test_aescbc_takes_no_place_of_a_cipher_that_authenticates() -> None:
    with pytest.raises(SettingsError, match="aescbc has no integrity and would take the place of aesgcm"):
        begun(text(SECRETS), RotationRequest(provider=ProviderType.AESCBC))
    assert begun(text(EVENTS), RotationRequest()).provider == "aescbc"


@pytest.mark.parametrize(
    ("forged", "fault"),
    [
        pytest.param({"provider": "aescbc"}, "would take the place of aesgcm", id="a weaker cipher"),
        pytest.param({"key_name": "a:b"}, "names a key as no rotation does", id="a name that others begin with"),
        pytest.param({"key_name": "x" * 5_000}, "names a key as no rotation does", id="a long name"),
        pytest.param({"key_name": "a\nidentity: {}"}, "names a key as no rotation does", id="a name of two lines"),
        pytest.param({"entries": (7,)}, "names an entry that the file does not have", id="an entry that is none"),
        pytest.param(
            {"entries": (7,), "step": RotationStep.PRUNE}, "names an entry that the file does not have", id="pruning it"
        ),
    ],
)
def test_a_forged_record_edits_nothing(forged: dict[str, Any], fault: str) -> None:
    rotation = replace(begun(text(SECRETS), RotationRequest()), **forged)
    with pytest.raises((SettingsError, ValueError), match=fault):
        edit(rotation, text(SECRETS), "enc.json", FRESH)


def test_the_three_edits_of_a_rotation_in_two_entries() -> None:
    raw = text(SECRETS, PLAIN, EVENTS)
    rotation = begun(raw, RotationRequest(resources=("secrets", "configmaps"), provider=ProviderType.AESGCM))
    added, fingerprint = edit(rotation, raw, "enc.json", FRESH)
    assert fingerprint == FRESH.fingerprint("aesgcm")
    assert keys_of(added) == [
        ["aesgcm:a", "aesgcm:key-20260203", "identity"],
        ["identity", "aesgcm:key-20260203"],
        UNTOUCHED,
    ]
    promoted, none = edit(rotation.at(RotationStep.PROMOTE, "", STAMP), added, "enc.json", FRESH)
    assert none == ""
    assert keys_of(promoted) == [
        ["aesgcm:key-20260203", "aesgcm:a", "identity"],
        ["aesgcm:key-20260203", "identity"],
        UNTOUCHED,
    ]
    pruned, _ = edit(rotation.at(RotationStep.PRUNE, "", STAMP), promoted, "enc.json", FRESH)
    # identity was first in one of the two entries: it goes from both, for nothing is plaintext in either.
    assert keys_of(pruned) == [["aesgcm:key-20260203"], ["aesgcm:key-20260203"], UNTOUCHED]


UNTOUCHED = ["aescbc:b", "secretbox:c"]


def keys_of(raw: bytes) -> list[list[str]]:
    return [
        [
            f"{one.type.value}:{key.name}" if key else one.type.value
            for one in entry.providers
            for key in (one.keys if isinstance(one, KeyedProvider) else [None])
        ]
        for entry in load(raw, "enc.json").entries
    ]


def test_each_edit_gets_a_key_of_32_bytes_of_its_own() -> None:
    one, other = fresh_key(), fresh_key()
    assert (len(one), len(other)) == (32, 32)
    assert one != other


def test_an_edit_of_another_file_is_refused_and_not_guessed() -> None:
    rotation = begun(text(SECRETS), RotationRequest())
    with pytest.raises(ConfigError):
        edit(rotation.at(RotationStep.PROMOTE, "", STAMP), text(SECRETS), "enc.json", FRESH)


# --------------------------------------------------------------------------------------------------------- the record

ROTATION = begun(text(SECRETS), RotationRequest(prune=True))


@pytest.mark.parametrize("step", list(RotationStep))
def test_a_record_is_read_as_it_was_written(step: RotationStep) -> None:
    rotation = prepared(ROTATION.at(step, "because", STAMP), "sha256:1", "f" * 16)
    assert Rotation.from_json(json.loads(json.dumps(rotation.to_json()))) == rotation


@pytest.mark.parametrize("field", sorted({*ROTATION.to_json()} - {"stanza", "proof_counts"}))
def test_a_record_without_a_field_is_damaged(field: str) -> None:
    broken = ROTATION.to_json()
    del broken[field]
    with pytest.raises(ValueError, match=f"^{field} is "):
        Rotation.from_json(broken)


def test_a_pause_holds_it_and_a_resume_lets_it_go() -> None:
    seen = Facts(ROTATION.file)
    assert isinstance(advance(paused(ROTATION), seen, STAMP).action, Wait)
    assert isinstance(advance(resumed(paused(ROTATION), ROTATION.file), seen, STAMP).action, Edit)


def test_a_content_that_was_put_in_place_meanwhile_is_not_handed_out_again() -> None:
    by_hand = paused(prepared(replace(ROTATION, by_hand=True), "sha256:1", "f" * 16))
    assert resumed(by_hand, "sha256:1").edited == "sha256:1"
    again = resumed(replace(by_hand, waits="sha256:1 has to be put in its place"), ROTATION.file)
    assert (again.edited, again.waits) == ("", "")
    assert resumed(replace(by_hand, by_hand=False), ROTATION.file).edited == "sha256:1"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (RotationStep.ADD, "not touched, or holds the new key as one that only reads"),
        (RotationStep.SPREAD, "stays in the file as one that only reads"),
        (RotationStep.SWITCH, "the new key stays in the file, for objects may be under it"),
    ],
)
def test_an_abort_says_what_stays(step: RotationStep, words: str) -> None:
    ended = aborted(paused(ROTATION.at(step, "", STAMP)), STAMP)
    assert (ended.step, ended.held) == (RotationStep.ABORTED, "")
    assert words in ended.because
    assert ended.passed[-1] == Passed(step, STAMP, ended.because)


ALL_RUN = Convergence(is_converged=True, file_hash="", because="all run it")
LAGS = Convergence(is_converged=False, file_hash="", because="one lags")


# ------------------------------------------------------------------------------------------- just before a key goes

PRUNING = ROTATION.at(RotationStep.PRUNE, "", STAMP)
SEEN = Facts(
    PRUNING.file,
    convergence=ALL_RUN,
    scan=ScanResult(70, 0, 0, 0),
)


def test_the_record_keeps_what_the_scan_that_proved_the_rotation_counted() -> None:
    proving = ROTATION.at(RotationStep.PROVE, "", STAMP)
    counts = ProofCounts(5, 0, 0, 1, (KeyCount("secrets", KeyRef("aesgcm", "two", "0" * 16), KeyState.CURRENT, 5),))
    decided = advance(proving, replace(SEEN, scan=replace(ScanResult(70, 0, 0, 0), counts=counts)), STAMP).action
    assert isinstance(decided, Move)
    assert (decided.rotation.proof_revision, decided.rotation.proof_counts) == (70, counts)


@pytest.mark.parametrize(
    ("seen", "action", "words"),
    [
        pytest.param(
            replace(SEEN, convergence=None, scan=None),
            Need,
            "do all kube-apiservers still run",
            id="convergence not gathered",
        ),
        pytest.param(
            replace(SEEN, convergence=LAGS),
            Wait,
            "one lags",
            id="one lags",
        ),
        pytest.param(replace(SEEN, scan=None), Need, "is nothing under the old keys", id="no scan gathered"),
        pytest.param(
            replace(SEEN, scan=ScanResult(70, 3, 3, 0)), Move, "3 objects are, or may be", id="something is there"
        ),
        pytest.param(
            replace(SEEN, scan=ScanResult(70, 0, 0, 1)), Wait, "1 objects can't be read", id="something unreadable"
        ),
        pytest.param(SEEN, Edit, "they are removed from the file", id="nothing speaks against it"),
    ],
)
def test_a_key_is_removed_only_right_after_a_scan_however_long_the_driver_was_away(
    seen: Facts, action: type, words: str
) -> None:
    decided = advance(PRUNING, seen, STAMP)
    assert isinstance(decided.action, action)
    assert words in decided.because
    if isinstance(decided.action, Move):
        assert decided.action.rotation.step is RotationStep.REWRAP


# ------------------------------------------------------------------------------------------- an unused key goes again

ADDED = prepared(ROTATION, "sha256:added", "f" * 16)
SPREAD = ADDED.at(RotationStep.SPREAD, "", STAMP)
WITHDRAWING = withdrawing(SPREAD, SPREAD.file, STAMP)


@pytest.mark.parametrize(
    ("rotation", "file", "step"),
    [
        pytest.param(ROTATION, ROTATION.file, RotationStep.ABORTED, id="nothing was added yet => aborted"),
        pytest.param(
            replace(ADDED, by_hand=True), ROTATION.file, RotationStep.ABORTED, id="the file is not in place => aborted"
        ),
        pytest.param(ADDED, "sha256:added", RotationStep.WITHDRAW, id="just added"),
        pytest.param(SPREAD, SPREAD.file, RotationStep.WITHDRAW, id="it spreads"),
        pytest.param(paused(SPREAD), SPREAD.file, RotationStep.WITHDRAW, id="held"),
        pytest.param(SPREAD.at(RotationStep.PROMOTE, "", STAMP), "", RotationStep.WITHDRAW, id="not yet first"),
        pytest.param(WITHDRAWING, "", RotationStep.WITHDRAW, id="asked for twice"),
    ],
)
def test_a_key_that_never_was_first_may_go_again(rotation: Rotation, file: str, step: RotationStep) -> None:
    found = withdrawing(rotation, file, STAMP)
    assert (found.step, found.held) == (step, "")
    if step is RotationStep.WITHDRAW:
        assert (found.file, found.edited) == ("sha256:added", "")


@pytest.mark.parametrize(
    ("rotation", "words"),
    [
        pytest.param(ADDED, "another process adds the new key", id="it is being added"),
        pytest.param(
            prepared(SPREAD.at(RotationStep.PROMOTE, "", STAMP), "sha256:2", ""),
            "may write already",
            id="becomes first",
        ),
        pytest.param(SPREAD.at(RotationStep.SWITCH, "", STAMP), "may write already", id="is first"),
        pytest.param(SPREAD.at(RotationStep.PRUNE, "", STAMP), "may write already", id="the old one goes"),
    ],
)
def test_a_key_that_may_be_first_stays(rotation: Rotation, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        withdrawing(rotation, ROTATION.file, STAMP)


UNUSED = Facts(
    WITHDRAWING.file,
    convergence=ALL_RUN,
    scan=ScanResult(70, 20, 20, 0),
)


@pytest.mark.parametrize(
    ("seen", "action", "words"),
    [
        pytest.param(replace(UNUSED, convergence=None, scan=None), Need, "the new key only reads", id="not asked"),
        pytest.param(
            replace(UNUSED, convergence=LAGS),
            Wait,
            "one lags",
            id="one lags",
        ),
        pytest.param(replace(UNUSED, scan=None), Need, "is nothing under the new key", id="not scanned"),
        pytest.param(replace(UNUSED, scan=ScanResult(70, 1, 1, 1)), Edit, "it never encrypted", id="not readable"),
        pytest.param(replace(UNUSED, scan=ScanResult(70, 0, 0, 0, 3)), Move, "3 objects are, or may be", id="objects"),
        pytest.param(
            replace(UNUSED, scan=ScanResult(70, 0, 0, 0, 0, 1)), Move, "may have encrypted 1 times", id="its budget"
        ),
        pytest.param(replace(UNUSED, file="sha256:9"), Move, "edited outside this rotation", id="edited by hand"),
        pytest.param(UNUSED, Edit, "it is removed from the file", id="nothing speaks against it"),
    ],
)
def test_an_unused_key_goes_only_right_after_a_look(seen: Facts, action: type, words: str) -> None:
    decided = advance(WITHDRAWING, seen, STAMP)
    assert isinstance(decided.action, action)
    assert words in decided.because
    if isinstance(decided.action, Move) and not decided.action.rotation.held:
        ended = decided.action.rotation
        assert (ended.step, ended.is_withdrawn) == (RotationStep.ABORTED, False)


def test_it_ends_when_all_run_the_file_without_it() -> None:
    returning = prepared(WITHDRAWING, "sha256:back", "").at(RotationStep.RETURN, "", STAMP)
    asked = advance(returning, Facts("sha256:back"), STAMP)
    assert isinstance(asked.action, Need)
    done = advance(
        returning,
        Facts("sha256:back", convergence=ALL_RUN),
        STAMP,
    ).action
    assert isinstance(done, Move)
    assert done.rotation.is_withdrawn
    assert done.rotation.because == "aborted by an operator; the unused key is gone from the file, and all run it"


def test_the_edit_of_a_withdrawal_gives_the_bytes_from_before() -> None:
    raw = text(SECRETS, PLAIN)
    rotation = begun(raw, RotationRequest(provider=ProviderType.AESGCM))
    added, _ = edit(rotation, raw, "enc.json", FRESH)
    back, fingerprint = edit(rotation.at(RotationStep.WITHDRAW, "", STAMP), added, "enc.json", FRESH)
    assert (keys_of(back), fingerprint) == (keys_of(raw), "")


OLD_KEY, NEW_KEY = KeyRef("aesgcm", "a", "a" * 16), KeyRef("aesgcm", "new", "f" * 16)
WITHOUT = GenerationRecord("sha256:back", (("secrets", (OLD_KEY,)),))
WITH = GenerationRecord("sha256:added", (("secrets", (OLD_KEY, NEW_KEY)),))


@pytest.mark.parametrize(
    ("rotation", "before", "after", "is_so"),
    [
        pytest.param(WITHDRAWING, WITH, WITHOUT, True, id="the key was removed"),
        pytest.param(WITHDRAWING, WITHOUT, WITH, False, id="it was added"),
        pytest.param(WITHDRAWING, WITHOUT, WITHOUT, False, id="it was not there"),
        pytest.param(SPREAD, WITH, WITHOUT, False, id="no withdrawal was requested"),
        pytest.param(
            WITHDRAWING,
            GenerationRecord("sha256:2", (("secrets", (NEW_KEY, OLD_KEY)), ("pods", (OLD_KEY,)))),
            WITHOUT,
            False,
            id="something else was changed, too",
        ),
    ],
)
def test_a_file_from_before_is_a_way_back_only_for_the_withdrawn_key(
    rotation: Rotation, before: GenerationRecord, after: GenerationRecord, *, is_so: bool
) -> None:
    assert is_way_back(rotation, before, after) is is_so


def test_a_record_that_goes_back_and_forth_does_not_grow_for_ever() -> None:
    rotation = ROTATION
    for _ in range(300):
        rotation = rotation.at(RotationStep.REWRAP, "again", STAMP).at(RotationStep.PROVE, "again", STAMP)
    assert len(rotation.passed) == 100
