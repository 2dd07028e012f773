"""What a backup's objects say: nothing is called readable that is not, and no invented name or size costs much."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.worker.backups import bbolt, reading
from kube_rewrap.worker.backups.paths import Paths
from kube_rewrap.worker.backups.reading import BackupReport, read_backup
from kube_rewrap.worker.backups.snapshot import open_snapshot
from kube_rewrap.worker.errors import BackupError
from tests.fakes.bolt_file import LEAF, BoltFile, etcd_file, inline, key_value, leaf, revision

PLAIN = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'


def configuration(*resources: str) -> Generation:
    secret = base64.b64encode(bytes(32)).decode()
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [
            {
                "resources": resources,
                "providers": [{"aescbc": {"keys": [{"name": "new", "secret": secret}]}}, {"identity": {}}],
            }
        ],
    }
    return load_generation(json.dumps(document).encode(), "test")


def prove(directory: Path, objects: Sequence[tuple[bytes, bytes]], *resources: str) -> BackupReport:
    """The report of a backup with these keys and values, under a configuration of these resources."""
    pairs = [(revision(main), key_value(*one, main)) for main, one in enumerate(objects, 2)]
    (directory / "db").write_bytes(etcd_file(pairs).data())
    generation = configuration(*resources or ("secrets",))
    with open_snapshot(str(directory / "db")) as snapshot:
        return asyncio.run(read_backup(snapshot, Paths(Layout(), [generation.configuration]), [generation]))


@pytest.mark.parametrize(
    ("objects", "is_readable"),
    [
        ([], False),
        ([(b"/kubernetes.io/secrets/default/a", PLAIN)], False),
        ([(b"/registry-2/secrets/default/a", PLAIN)], False),
        ([(b"/registry/pods/default/a", PLAIN)], True),
        ([(b"/registry/secrets/default/a", PLAIN)], True),
        ([(b"/registry/pods/default/a", b"k8s:enc:aescbc:v1:old:\xff")], False),
        ([(b"/registry/example.com/widgets/default/a", b"k8s:enc:aescbc:v1:old:\xff")], False),
        ([(b"/registry/unheard/default/a", PLAIN), (b"/registry/pods/default/a", PLAIN)], True),
        ([(b"/registry/unheard/default/a", b"k8s:enc:aescbc:v1:old:\xff")], False),
    ],
    ids=[
        "nothing",
        "another etcd prefix",
        "a longer etcd prefix",
        "plaintext that no entry names",
        "plaintext that identity reads",
        "encrypted, and no entry names it",
        "an encrypted custom resource",
        "plaintext of an unknown resource",
        "an encrypted object of an unknown resource",
    ],
)
def test_a_backup_is_readable_only_if_a_kube_apiserver_reads_it(
    tmp_path: Path, objects: Sequence[tuple[bytes, bytes]], is_readable: bool
) -> None:
    assert prove(tmp_path, objects).is_readable == is_readable


def test_text_in_ciphertext_takes_no_place_from_the_names_of_missing_keys(tmp_path: Path) -> None:
    """An IV may begin with letters and a colon. Each revision is older than the one before it in this list."""
    texts = [bytes([first, second]) + b":" for first in b"abcdefghijklmnop" for second in b"0123456789ABCDEFGHIJ"]
    heads = [b"k8s:enc:aescbc:v1:old:", *(b"k8s:enc:aescbc:v1:old:" + text for text in texts)]
    heads += [b"k8s:enc:aescbc:v1:other:"]
    objects = [(b"/registry/secrets/default/%d" % number, head + b"\xff") for number, head in enumerate(heads)]
    found = prove(tmp_path, objects[::-1])
    assert [(one.key.name, one.objects) for one in found.missing] == [("old", 1 + len(texts)), ("other", 1)]


def test_a_backup_of_invented_resources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_RESOURCES", 300)
    keys = [b"/registry/group%d.example.com/widgets/default/a" % number for number in range(600)]
    with pytest.raises(BackupError, match="db: it holds objects of more than 300 resources"):
        prove(tmp_path, [(key, b"k8s:enc:aescbc:v1:old:\xff") for key in keys])


def test_the_listed_objects_are_bounded_over_all_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_NAMED", 7)
    keys = [b"/registry/group%d.example.com/widgets/default/a" % number for number in range(20)]
    found = prove(tmp_path, [(key, b"k8s:enc:aescbc:v1:old:\xff") for key in keys])
    assert found.newest.unreadable == 20
    assert sum(len(tally.listed) for tally in found.newest.resources) == 7


def test_long_keys_are_listed_by_their_beginning(tmp_path: Path) -> None:
    name = b"/registry/secrets/default/" + b"a" * 100_000
    path = b"/registry/" + b"b" * 100_000 + b"/c"
    found = prove(tmp_path, [(name, b"k8s:enc:aescbc:v1:old:\xff"), (path, b"k8s:enc:aescbc:v1:old:\xff")])
    [listed] = next(tally.listed for tally in found.newest.resources if tally.resource == "secrets")
    assert [listed.key, *found.missing[0].examples] == [name[:1_024]] * 2
    assert [len(one) for one in found.newest.unknown] == [1_024]


@pytest.mark.parametrize("bucket", ["name", "content"])
def test_a_bucket_that_takes_more_than_a_page_is_refused(tmp_path: Path, bucket: str) -> None:
    file = BoltFile()
    name = b"key" if bucket == "content" else b"k" * 2_000
    content = inline([(b"a", bytes(2_000 if bucket == "content" else 0))])
    file.root = file.add(LEAF, leaf([(name, content)], flags=1), 1)
    (tmp_path / "db").write_bytes(file.data())
    with (
        pytest.raises(BackupError, match=r"page 2: a bucket in it has too long a name"),
        open_snapshot(str(tmp_path / "db")),
    ):
        pass


def test_a_database_of_too_many_pages_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bbolt, "_MOST_PAGES", 10)
    (tmp_path / "db").write_bytes(
        etcd_file([(revision(main), key_value(b"a", b"", main)) for main in range(2, 99)]).data()
    )
    read: list[int] = []
    with (
        pytest.raises(BackupError, match="so many pages is too large"),
        open_snapshot(str(tmp_path / "db"), read.append),
    ):
        pass
    assert read == []
