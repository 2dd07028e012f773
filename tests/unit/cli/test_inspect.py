"""What `inspect` shows of a value under KMS: its key id, escaped, and what the plugin says of it."""

from __future__ import annotations

import json

from kube_rewrap.cli.commands.inspect import _document, _rows
from kube_rewrap.worker.errors import KmsRefusedError, KmsUndecidedError
from kube_rewrap.worker.kms.errors import extract
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import ScriptedClient
from tests.unit.worker.kms.test_through_the_engine import LOCAL, OBJECT, SEED, key_of, of_v1, scene_of
from tests.unit.worker.providers.kms_values import type_1, v2_body

KEY_ID = "arn:aws:kms:eu-1:123456789012:key/\x1b[31m\n"
SHOWN = "arn:aws:kms:eu-1:123456789012:key/\\x1b[31m\\n"
ANNOTATIONS = [(b"a.example.com", b"\0")]


async def shown(name: str, value: bytes, error: Exception | None = None) -> dict[str, object]:
    store, client = MemoryStore(), ScriptedClient(seconds=0.1)
    store.put(key_of(name), value)
    if error is not None:
        client.script = lambda call: error if call.wrapped and call.wrapped.key_id == KEY_ID else None
    async with scene_of(store, client) as scene:
        examined = await scene.engine.examine(key_of(name), "secrets")
    assert examined is not None
    document = _document("secrets", examined)
    assert "\x1b" not in json.dumps(document, ensure_ascii=False)
    assert "\x1b" not in "".join(f"{field}{text}" for field, text in _rows(document))
    return document


def of_v2(name: str) -> bytes:
    body = v2_body(type_1(SEED, OBJECT, key_of(name)), KEY_ID.encode(), b"wrapped:" + SEED, ANNOTATIONS)
    return b"k8s:enc:kms:v2:cloud:" + body


@without_waiting
async def test_a_value_under_kms_v2_is_shown_with_its_whole_key_id_escaped() -> None:
    kms = (await shown("a", of_v2("a")))["kms"]
    assert isinstance(kms, dict)
    assert len(kms.pop("source")) == 16
    expected = {"version": "v2", "key_id": SHOWN, "source_type": 1, "annotations": 1, "plugin_text": None}
    assert kms == expected


@without_waiting
async def test_what_the_plugin_says_of_a_key_that_it_refuses_is_shown_escaped_and_cut() -> None:
    for kind in (KmsUndecidedError, KmsRefusedError):
        error = kind("ours")
        error.plugin_text = extract("AccessDenied \x1b[31m" + "x" * 1_000)
        document = await shown("a", of_v2("a"), error)
        kms = document["kms"]
        assert isinstance(kms, dict)
        assert document["readable"] is False
        assert str(kms["plugin_text"]).startswith("AccessDenied \\x1b[31mxxx")
        assert len(str(kms["plugin_text"])) == 300
        assert ("KMS plugin text", kms["plugin_text"]) in list(_rows(document))


@without_waiting
async def test_of_kms_v1_there_is_no_key_id_and_of_other_values_nothing() -> None:
    kms = (await shown("a", of_v1(SEED)))["kms"]
    assert isinstance(kms, dict)
    assert (kms["version"], kms["key_id"], kms["source_type"]) == ("v1", None, None)
    document = await shown("a", LOCAL.seal(OBJECT, key_of("a")))
    assert document["kms"] is None
    assert [name for name in dict(_rows(document)) if name.startswith("KMS")] == []
