"""No key byte and no plaintext byte leaves the process: every command runs over marked keys and objects, everything
that comes out is searched for the marks in any encoding, and so is whatever can be printed of what is near a key."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import EtcdSettings, KeyspaceSettings, Settings
from kube_rewrap.worker.engine import open_engine
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.inventory import ResourceRange
from kube_rewrap.worker.rewrap.decide import decide
from tests.acceptance.command import Command, Ended, command_for
from tests.acceptance.marks import BOX, CBC, GCM, LOST, PASSWORD, PAYLOAD, marks_in
from tests.integration.apiserver import IDENTITY, configuration, manifest, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway


def secret(name: str) -> bytes:
    return manifest("Secret", "default", name, PAYLOAD)


def name_of(name: str) -> str:
    return f"/registry/secrets/default/{name}"


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    """Every kind of good and bad object, each with the marks inside."""
    gateway = etcd.admin()
    for key in (CBC, GCM, BOX, LOST, IDENTITY):
        store(gateway, {name_of(f"{key.provider}-{key.name}-{n}"): secret(f"o{n}") for n in range(5)}, key)
    good = GCM.seal(name_of("elsewhere"), secret("elsewhere"))
    poison = {
        "moved": good,  # bound to another etcd key
        "cut": CBC.seal(name_of("cut"), secret("cut"))[:-5],
        "not-an-object": CBC.seal(name_of("not-an-object"), PAYLOAD.encode() + GCM.material),
        "garbage": PAYLOAD.encode() + b"\xff" + GCM.material,
        "half": secret("half")[:-10],
        "broken-protobuf": b"k8s\x00" + PAYLOAD.encode(),
        "broken-cbor": b"\xd9\xd9\xf7" + PAYLOAD.encode(),
    }
    gateway.put_all({name_of(name): value for name, value in poison.items()})
    return gateway


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> Command:
    file = write_private(tmp_path / "enc.json", configuration((["secrets"], [GCM, CBC, BOX, IDENTITY])))
    return replace(command_for(tmp_path, etcd, file), anew=True).with_environment(REWRAP_LOG_LEVEL="debug")


def assert_silent(ended: Ended) -> None:
    assert marks_in(ended.stdout) == []
    assert marks_in(ended.stderr) == []


COMMANDS = [
    ["status"],
    ["run", "--dry-run"],
    ["run"],
    ["verify"],
    ["keys"],
    ["report", "--names"],
    ["report", "--now", "--names", "-o", "json"],
    ["inspect", name_of("moved")],
    ["inspect", name_of("not-an-object")],
    ["inspect", name_of("aescbc-cbc-1")],
]


def test_no_command_and_no_record_shows_a_mark(rewrap: Command, gateway: Gateway) -> None:
    for words in COMMANDS:
        assert_silent(rewrap.run(*words))
    for words in (["run"], ["verify"], ["inspect", name_of("moved")]):
        assert_silent(rewrap.run(*words, "-o", "json"))
    records = gateway.read("/kube-rewrap/")
    kinds = {record.key.split("/")[3] for record in records}
    assert kinds == {"audit", "audit-head", "batches", "campaigns", "ledger", "quarantine"}
    assert [record.key for record in records if marks_in(record.value) or marks_in(record.key)] == []


def test_a_traceback_that_was_asked_for_shows_no_mark(rewrap: Command, etcd: EtcdCluster, gateway: Gateway) -> None:
    asked = rewrap.with_environment(REWRAP_TRACEBACK="1")
    gateway.put("/kube-rewrap/v1/observer", b'{"v": 1, "counts": 3}')
    for words in (["run"], ["keys"], ["run", "--resource", "pods"], ["inspect", "/nowhere"]):
        ended = asked.run(*words)
        assert "Traceback" in ended.stderr
        assert_silent(ended)


BROKEN = [
    {"aescbc": {"keys": [{"name": base64.b64encode(CBC.material).decode(), "secret": "cbc"}]}},
    {"aescbc": {"keys": [{"name": "a", "secret": base64.b64encode(CBC.material).decode() + "!"}]}},
    {"aescbc": {"keys": [{"name": "a", "secret": base64.b64encode(CBC.material[:31]).decode()}]}},
    {"aescbc": {"keys": [{"name": "a", base64.b64encode(CBC.material).decode(): "secret"}]}},
    {"aescbc": {"keys": [base64.b64encode(CBC.material).decode()]}},
    {base64.b64encode(CBC.material).decode(): {}},
    {"aescbc": {"keys": [CBC.block()]}, "aesgcm": GCM.block()["aesgcm"]},
    {"kms": {"name": base64.b64encode(CBC.material).decode(), "endpoint": CBC.material.decode(), "apiVersion": "v2"}},
    {"secretbox": {"keys": [{"name": "a", "secret": 7}, {"name": "a", "secret": BOX.material.decode()}]}},
]


@pytest.mark.parametrize("provider", BROKEN, ids=range(len(BROKEN)))
def test_a_key_in_the_wrong_place_of_the_configuration_is_not_shown(
    tmp_path: Path, provider: dict[str, object]
) -> None:
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [provider]}],
    }
    file = write_private(tmp_path / "enc.json", json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        load_generation(file.read_bytes(), str(file))
    assert marks_in("".join(traceback.format_exception(caught.value))) == []
    assert marks_in(repr(caught.value) + repr(caught.value.faults)) == []


@pytest.mark.parametrize(
    "text",
    [
        "resources:\n- resources: [secrets]\n  providers:\n  - aescbc:\n      keys:\n      - secret: {}\n  bad: [",
        "{}",
        "resources: {}\n",
        "{}: {}\n{}: {}\n",
        "\t{}\n",
        "%YAML {}\n",
        "a: !!python/object {}\n",
        "a: *{}\n",
    ],
)
def test_a_text_that_cannot_be_read_is_not_quoted(tmp_path: Path, text: str) -> None:
    mark = base64.b64encode(CBC.material).decode()
    file = write_private(tmp_path / "enc.yaml", text.replace("{}", mark))
    for words in (["check", str(file)], ["check", str(file), "-o", "json"]):
        ended = Command(tmp_path, environment={"REWRAP_TRACEBACK": ""}).run(*words)
        assert ended.code == 2
        assert_silent(ended)


def test_keys_on_the_command_line_are_not_repeated(tmp_path: Path) -> None:
    mark = base64.b64encode(CBC.material).decode()
    file = write_private(tmp_path / "enc.json", configuration((["secrets"], [GCM])))
    command = Command(tmp_path, environment={"REWRAP_ENCRYPTION_CONFIG": str(file)})
    for words in (["run", "--rate", mark], ["run", "--gcm-limit", mark]):
        ended = command.run(*words, "-o", "json")
        assert ended.code == 2
        assert_silent(ended)
    settings = write_private(
        tmp_path / "settings.toml", f'[etcd]\npassword = "{PASSWORD}"\ncall_timeout = "{PASSWORD}"\n'
    )
    ended = command.run("status", "--settings", str(settings))
    assert ended.code == 2
    assert_silent(ended)


def test_a_password_that_is_refused_is_not_shown(etcd_auth: EtcdCluster, tmp_path: Path) -> None:
    file = write_private(tmp_path / "enc.json", configuration((["secrets"], [GCM])))
    flags = ("--endpoints", etcd_auth.endpoints[0], "--encryption-config", str(file))
    for environment in (
        {"REWRAP_USER": f"rewrap:{PASSWORD}"},
        {"REWRAP_USER": "rewrap", "REWRAP_PASSWORD": PASSWORD, "REWRAP_TRACEBACK": "1"},
    ):
        ended = Command(tmp_path, flags, environment).run("status")
        assert ended.code != 0
        assert_silent(ended)


def generation() -> Generation:
    return load_generation(configuration((["secrets"], [GCM, CBC, BOX, IDENTITY])).encode(), "enc.json")


@contextmanager
def no_mark_printed() -> Iterator[list[object]]:
    """What is put into the list is printed in every ordinary way at the end."""
    things: list[object] = []
    yield things
    for thing in things:
        for printed in (repr(thing), str(thing), f"{thing}", repr([thing]), repr({"a": thing})):
            assert marks_in(printed) == [], type(thing).__name__


def test_what_is_near_keys_prints_without_them() -> None:
    loaded = generation()
    providers = loaded.configuration.providers_for(GroupResource("secrets"))
    assert providers is not None
    chain = Chain(providers)
    name = name_of("a").encode()
    stale = CBC.seal(name_of("a"), secret("a"))
    settings = Settings().with_values("etcd", {"user": "rewrap", "password": PASSWORD}, "REWRAP_PASSWORD")
    with no_mark_printed() as things:
        things += [loaded, loaded.configuration, loaded.configuration.entries, providers, *providers]
        things += [key for provider in providers for key in getattr(provider, "keys", ())]
        things += [
            chain,
            chain.primary,
            chain.keys,
            *chain._links,
            *(getattr(link, "cipher", link) for link in chain._links),
        ]
        things += [decide(stale, name, chain), chain.open(stale, name), chain.open(PAYLOAD.encode(), name)]
        things += [settings, settings.etcd, settings.etcd.password]


async def test_an_engine_at_work_prints_without_keys(etcd: EtcdCluster) -> None:
    gateway = etcd.admin()
    store(gateway, {name_of("a"): secret("a")}, CBC)
    settings = Settings(etcd=EtcdSettings(endpoints=tuple(etcd.endpoints)), keyspace=KeyspaceSettings())
    async with open_engine(settings, generation()) as engine:
        everything = ResourceRange("secrets", KeyRange.of_prefix(b"/registry/secrets/"))
        with no_mark_printed() as things:
            things += [engine, *vars(engine).values(), *engine.chains.values()]
            things += [await engine.inventory([everything], await engine.store.revision())]
            examined = await engine.examine(name_of("a").encode(), "secrets")
            assert examined is not None
            things += [examined, examined.item, examined.verdict]


def test_the_search_finds_what_it_looks_for() -> None:
    assert marks_in(b"..." + base64.b64encode(b"abc" + CBC.material + b"def"))
    assert marks_in(repr(CBC.material))
    assert marks_in(CBC.material.hex())
    assert marks_in(secret("a"))
    assert marks_in("nothing of that kind") == []
