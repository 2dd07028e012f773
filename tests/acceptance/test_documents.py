"""The JSON document of each command, field by field, on a registry where everything there is to report happened."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.config.encryption.generation import content_hash
from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, Key, configuration, configure, secrets, store, write_private
from tests.servers.etcd import EtcdCluster, EtcdVersion
from tests.servers.gateway import Gateway

OLD, NEW, BOX = Key.new("aescbc", "old"), Key.new("aesgcm", "new"), Key.new("secretbox", "box")
LOST = Key.new("aesgcm", "lost")
UNREADABLE = "/registry/secrets/zone/unreadable"
UNREADABLE_BY = [{"resource": "secrets", "reason": "no_key_of_that_name", "objects": 1}]
LEASED = "/registry/events/default/e"

NOT_CONVERGED = (
    "the kube-apiservers are not known to run this configuration: no address of a kube-apiserver is given: name all of "
    "them with --apiserver, or state that all run it with `rewrap converged --assume-converged "
    "REASON`"
)
NEVER_PROVEN = "no campaign over everything is on record as complete under this configuration: `rewrap run` makes one"


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    """Five secrets and one event under the old key, three secrets under the new one, one under a key that is lost."""
    gateway = etcd.admin()
    store(gateway, secrets(5), OLD)
    store(gateway, secrets(3, namespace="other"), NEW)
    store(gateway, {UNREADABLE: secrets(1)["/registry/secrets/default/s00000"]}, LOST)
    gateway.put(LEASED, OLD.seal(LEASED, b'{"apiVersion":"v1","kind":"Event","metadata":{}}'), gateway.grant_lease(600))
    return gateway


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> Command:
    entries = (["secrets"], [NEW, OLD]), (["events"], [BOX, OLD, IDENTITY])
    return command_for(tmp_path, etcd, write_private(tmp_path / "enc.json", configuration(*entries)))


def key_row(key: Key, objects: int, *, primary: bool) -> dict[str, Any]:
    return {
        "provider": key.provider,
        "key": key.name,
        "fingerprint": key.fingerprint,
        "objects": objects,
        "primary": primary,
    }


def tallies(*, secrets_old: int, secrets_new: int, events: tuple[Key, bool]) -> list[dict[str, Any]]:
    key, current = events
    secret_keys = [key_row(OLD, secrets_old, primary=False)] if secrets_old else []
    secret_keys += [key_row(NEW, secrets_new, primary=True)]
    return [
        {
            "resource": "events",
            "objects": 1,
            "stale": int(not current),
            "undetermined": 0,
            "unreadable": 0,
            "keys": [key_row(key, 1, primary=current)],
        },
        {"resource": "secrets", "objects": 9, "stale": secrets_old}
        | {"undetermined": 0, "unreadable": 1, "keys": secret_keys},
    ]


def test_status_says_which_key_encrypts_what(rewrap: Command, gateway: Gateway) -> None:
    assert rewrap.json("status") == {
        "revision": gateway.revision(),
        "objects": 10,
        "stale": 6,
        "undetermined": 0,
        "unreadable": 1,
        "unreadable_by": UNREADABLE_BY,
        "peeked": 0,
        "resources": tallies(secrets_old=5, secrets_new=3, events=(OLD, False)),
        "unknown_paths": [],
        "kms_calls": [],
    }


def test_a_dry_run_says_what_a_run_would_do(rewrap: Command, gateway: Gateway) -> None:
    revision = gateway.revision()
    document = rewrap.json("run", "--dry-run")
    stale_bytes = sum(len(one.value) for one in gateway.read("/registry/") if OLD.open(one.key, one.value) is not None)
    assert document.pop("projected_bytes") > 0
    assert document == {
        "dry_run": True,
        "resumes": None,
        "to_rewrite": 6,
        "outdated": 0,
        "since": None,
        "bytes": stale_bytes,
        "growth_bytes": 0,
        "quota_bytes": 2 * 2**30,
        "kms_calls": [],
        "warnings": [],
        "refusals": [],
        "revision": revision,
        "objects": 10,
        "stale": 6,
        "undetermined": 0,
        "unreadable": 1,
        "unreadable_by": UNREADABLE_BY,
        "peeked": 0,
        "resources": tallies(secrets_old=5, secrets_new=3, events=(OLD, False)),
        "unknown_paths": [],
    }
    assert gateway.revision() == revision


def test_run_then_verify_then_keys_agree_with_each_other(rewrap: Command, gateway: Gateway) -> None:
    before = gateway.revision()
    document = rewrap.json("run", code=3)
    verify = rewrap.json("verify", code=3)
    keys = rewrap.json("keys")

    proof = document.pop("proof")
    assert proof.pop("revision") < verify.pop("revision") <= gateway.revision()
    assert proof == verify == proof_document()
    assert document.pop("campaign").startswith("20")
    assert document.pop("seconds") > 0
    assert document.pop("because").endswith("1 objects can't be read")
    [entry] = document.pop("quarantined")
    assert entry.pop("mod_revision") == gateway.read(UNREADABLE)[0].mod_revision
    assert entry == {"key": UNREADABLE, "reason": "no_key_of_that_name", "detail": reason_detail()}
    rewritten = [one for one in gateway.read("/registry/") if one.version == 2]
    assert document == {
        "state": "incomplete",
        "scope": {"resources": ["events", "secrets"], "namespaces": [], "everything": True},
        "since": None,
        "rewritten": 6,
        "current": 3,
        "conflicts": 0,
        "unknown": 0,
        "gone": 0,
        "rewritten_by_this_run": 6,
        "encryptions": 6,
        "quarantined_total": 1,
        "quarantined_by": UNREADABLE_BY,
        "bytes": sum(len(one.value) for one in rewritten),
    }
    assert keys.pop("destruction") is None
    assert sorted(keys) == ["keys", "kms", "kms_note", "missing", "note", "observed_until", "revisions_since"]
    assert keys["kms"] == []
    judged = {one["fingerprint"]: one["blockers"] for one in verify["keys"]}
    assert all(row.pop("blockers") == judged[row["fingerprint"]] for row in keys["keys"])
    # What was deleted before the first look is in no estimate: any revision until then may have been such a write.
    assert all(before <= row.pop("estimated_at_most") < gateway.revision() for row in keys["keys"])
    assert {row["fingerprint"]: row for row in keys["keys"]} == {
        # Tokens were reserved for the five of the page's nine objects that need them.
        NEW.fingerprint: budget(NEW, reserved=5, committed=5, before=3),
        OLD.fingerprint: budget(OLD, reserved=0, committed=0, before=6),
        BOX.fingerprint: budget(BOX, reserved=1, committed=1, before=0),
    }


def test_a_campaign_that_ended_names_what_it_left_alone_and_has_no_rate(
    rewrap: Command, etcd: EtcdCluster, gateway: Gateway
) -> None:
    store(gateway, {f"{UNREADABLE}-{number:02}": b"{}" for number in range(1, 25)}, LOST)
    done = rewrap.json("run", code=3)
    campaigns = Command(rewrap.directory, tuple(etcd.client_flags()))
    shown = campaigns.json("campaign", "show", done["campaign"])
    assert (shown["state"], shown["rate"], shown["seconds_left"]) == ("incomplete", None, None)
    assert (len(shown["quarantined"]), shown["quarantined_total"]) == (25, 25)
    for more, listed in (((), 1), (("--namespaces",), 20)):
        text = campaigns.run("campaign", "show", done["campaign"], *more).stdout
        assert "rate" not in text
        assert f"\nconfiguration: {shown['campaign']['generation'][:23]}\n" in text
        rows = [line for line in text.splitlines() if line.startswith(f"  {UNREADABLE}")]
        assert len(rows) == listed
        assert all(": no_key_of_that_name: " in row for row in rows)
        assert f"\n  and {25 - listed} more (-o json names 25)\n" in text
        assert ("NAMESPACE" in text) is bool(more)
    text = campaigns.run("campaign", "show", done["campaign"]).stdout
    assert len(text.splitlines()) < 24


def reason_detail() -> str:
    return "no key of the name in k8s:enc:aesgcm:v1:lost: is configured for this provider"


def proof_document() -> dict[str, Any]:
    return {
        "complete": False,
        "objects": 10,
        "stale": 0,
        "unreadable": [{"key": UNREADABLE, "reason": "no_key_of_that_name", "detail": reason_detail()}],
        "unreadable_total": 1,
        "unreadable_by": UNREADABLE_BY,
        "unknown_paths": [],
        "keys": [
            key_verdict(BOX, 1, "it is the primary of events", "1 objects are under it"),
            key_verdict(OLD, 0),
            key_verdict(IDENTITY, 0),
            key_verdict(NEW, 8, "it is the primary of secrets", "8 objects are under it"),
        ],
    }


def key_verdict(key: Key, objects: int, *blockers: str) -> dict[str, Any]:
    return {
        "provider": key.provider,
        "key": key.name,
        "fingerprint": key.fingerprint,
        "objects": objects,
        "removable": False,
        "blockers": [*blockers, NOT_CONVERGED, NEVER_PROVEN],
    }


def budget(key: Key, *, reserved: int, committed: int, before: int) -> dict[str, Any]:
    used = reserved + before
    is_limited = key.provider == "aesgcm"
    return {
        "fingerprint": key.fingerprint,
        "provider": key.provider,
        "names": [key.name],
        "reserved": reserved,
        "committed": committed,
        "observed": 0,
        "estimated": before,
        "used": used,
        "limit": 200_000 if is_limited else None,
        "state": "ok" if is_limited else "unlimited",
        "due_because": None,
        "collision_probability": used**2 / 2**97 if is_limited else None,
        "limit_reached_at": None,
        "removable": False,
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            LEASED,
            {"resource": "events", "provider": "aescbc", "key_name": "old", "fingerprint": OLD.fingerprint}
            | {"readable": True, "stale": True, "reason": None},
        ),
        (
            UNREADABLE,
            {"resource": "secrets", "provider": None, "key_name": None, "fingerprint": None}
            | {"readable": False, "stale": True, "reason": f"no_key_of_that_name: {reason_detail()}"},
        ),
    ],
    ids=["stale, on a lease", "unreadable"],
)
def test_inspect_shows_one_object(rewrap: Command, gateway: Gateway, name: str, told: dict[str, Any]) -> None:
    [found] = gateway.read(name)
    assert rewrap.json("inspect", name, code=0 if told["readable"] else 3) == {
        "key": name,
        "mod_revision": found.mod_revision,
        "version": 1,
        "lease": found.lease,
        "bytes": len(found.value),
        "kms": None,
        **told,
    }


def test_check_lists_who_reads_what(tmp_path: Path) -> None:
    file = configure(tmp_path, NEW, OLD, IDENTITY, resources=["secrets", "configmaps"])
    providers = [
        {"provider": key.provider, "key": key.name, "fingerprint": key.fingerprint, "primary": key is NEW}
        for key in (NEW, OLD, IDENTITY)
    ]
    assert Command(tmp_path).json("check", str(file)) == {
        "ok": True,
        "file": str(file),
        "hash": content_hash(file.read_bytes()),
        "errors": [],
        "warnings": [],
        "resources": [{"resource": name, "providers": providers} for name in ("secrets", "configmaps")],
    }


def test_keygen_gives_a_key_that_check_accepts(tmp_path: Path) -> None:
    document = Command(tmp_path).json("keygen", "aesgcm", "--name", "2026-11-23T00:00:00Z", "--bytes", "24")
    material = base64.b64decode(document.pop("secret"), validate=True)
    assert len(material) == 24
    key = Key("aesgcm", "2026-11-23T00:00:00Z", material)
    assert document == {"provider": "aesgcm", "name": key.name, "fingerprint": key.fingerprint}
    file = configure(tmp_path, key)
    [resource] = Command(tmp_path).json("check", str(file))["resources"]
    assert resource["providers"][0]["fingerprint"] == key.fingerprint


def test_the_block_of_keygen_is_a_provider_as_it_stands(tmp_path: Path) -> None:
    ended = Command(tmp_path).run("keygen", "secretbox", "--name", "yes")
    assert (ended.code, ended.stderr) == (0, "")
    block = "".join(f"      {line}\n" for line in ended.stdout.splitlines())
    head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
    file = write_private(tmp_path / "enc.yaml", f"{head}  - resources: [secrets]\n    providers:\n{block}")
    [resource] = Command(tmp_path).json("check", str(file))["resources"]
    assert [(key["key"], f"# fingerprint {key['fingerprint']}") for key in resource["providers"]] == [
        ("yes", ended.stdout.splitlines()[0])
    ]


def test_the_demonstration_runs_and_cleans_up(tmp_path: Path) -> None:
    ended = (
        Command(tmp_path)
        .with_environment(TMPDIR=str(tmp_path))
        .run("demo", "--objects", "200", "--etcd", str(EtcdVersion.V3_5.binary))
    )
    assert ended.code == 0, ended.stderr
    assert "COMPLETE: 200 objects" in ended.stdout
    assert list(tmp_path.glob("kube-rewrap-demo-*")) == []
