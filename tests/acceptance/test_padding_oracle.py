"""The padding oracle (Vaudenay 2002): who can write to etcd, and has no key, must learn nothing of an aescbc object.

The attack needs one bit: whether the padding of a value that it made was right. It is run here as an attacker would,
and then every outlet is compared for values whose padding is wrong and values whose padding is right, with content
that is no object. Here nobody has a key but the command line and `kube-apiserver`, who wrote the victim.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from tests.acceptance.command import Command, Ended, command_for
from tests.integration.apiserver import Key, configure, secrets, store
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

CBC_KEY, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
VICTIM = "/registry/secrets/default/s00000"
GUESSES = "/registry/secrets/guess/"
BLOCK = 16
RECOVERED = 2

Ask = Callable[[Command], list[tuple[str, str]]]
"""One outlet: what it says of each object, as (etcd key, words)."""


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    return etcd.admin()


@pytest.fixture
def rewrap(etcd: EtcdCluster, tmp_path: Path) -> Command:
    return command_for(tmp_path, etcd, configure(tmp_path, NEW, CBC_KEY))


# ------------------------------------------------------------------------------------------------------- the attack


def listed(rows: list[dict[str, object]]) -> list[tuple[str, str]]:
    return [(str(row["key"]), f"{row['reason']}: {row['detail']}") for row in rows]


def by_run(rewrap: Command) -> list[tuple[str, str]]:
    return listed(rewrap.json("run", code=3)["quarantined"])


def by_verify(rewrap: Command) -> list[tuple[str, str]]:
    return listed(rewrap.json("verify", code=3)["unreadable"])


@pytest.mark.parametrize("ask", [by_run, by_verify], ids=["run", "verify"])
def test_a_writer_without_a_key_recovers_no_byte_of_an_aescbc_object(
    gateway: Gateway, rewrap: Command, ask: Ask
) -> None:
    store(gateway, secrets(1), CBC_KEY)
    victim = gateway.get(VICTIM)
    assert victim is not None
    assert recovered(gateway, rewrap, ask, victim.value) == b""


def recovered(gateway: Gateway, rewrap: Command, ask: Ask, stored: bytes) -> bytes:
    """Recover the end of the victim's first block from stored bytes and one outlet alone; b"" = it could not."""

    def ask_about(values: dict[str, bytes]) -> dict[str, str]:
        gateway.put_all(values)
        return {key: words for key, words in ask(rewrap) if key in values}

    body = stored[len(CBC_KEY.prefix) :]
    before, block = body[:BLOCK], body[BLOCK : 2 * BLOCK]
    known = b""
    for position in range(BLOCK - 1, BLOCK - 1 - RECOVERED, -1):
        byte = right_guess(ask_about, block, known, position)
        if byte is None:
            return b""
        known = bytes([byte]) + known
    return bytes(one ^ other for one, other in zip(known, before[-len(known) :], strict=True))


def right_guess(
    ask_about: Callable[[dict[str, bytes]], dict[str, str]], block: bytes, known: bytes, position: int
) -> int | None:
    """Write 256 values of two blocks, and look which one is told in other words than the rest."""
    fill = BLOCK - position
    tail = bytes(byte ^ fill for byte in known)
    head = os.urandom(position)
    guesses = {f"{GUESSES}{guess:03}": CBC_KEY.prefix + head + bytes([guess]) + tail + block for guess in range(256)}
    told = ask_about(guesses)
    usual, _ = Counter(told.values()).most_common(1)[0]
    odd = [int(key[-3:]) for key, words in told.items() if words != usual]
    return odd[0] ^ fill if len(odd) == 1 else None


# ---------------------------------------------------------------------------------------------- all outlets, compared


def sealed(padded: bytes) -> bytes:
    """Blocks that decrypt to exactly these bytes, padding included."""
    iv = os.urandom(BLOCK)
    encryptor = Cipher(AES(CBC_KEY.material), CBC(iv)).encryptor()
    return CBC_KEY.prefix + iv + encryptor.update(padded) + encryptor.finalize()


def bad_padding() -> Iterator[bytes]:
    """Contents of many sorts under paddings that no one accepts: of none, too long, uneven; an object, too."""
    for last in (b"\x00", b"\x01\x02", b"\xff", b"\x07" * 6):
        for content in (b"garbage", b"k8s\x00\x0a\x04\x0a\x02v1", next(iter(secrets(1).values())), b""):
            length = BLOCK * (len(content) // BLOCK + 2)
            yield content + b"." * (length - len(content) - len(last)) + last


def good_padding() -> Iterator[bytes]:
    """As above, each as long as its twin, with right paddings of several lengths, and what came out is no object."""
    fills = iter((1, 2, 16, 17, 3, 1, 5, 16, 2, 9, 32, 4, 8, 7, 6, 1))
    for twin in bad_padding():
        fill = next(fills)
        yield (b"{" + twin[1:])[: len(twin) - fill] + bytes([fill]) * fill


def test_no_outlet_tells_a_wrong_padding_from_a_wrong_content(gateway: Gateway, rewrap: Command) -> None:
    assert [*map(len, bad_padding())] == [*map(len, good_padding())]
    assert told_of(gateway, rewrap, [*bad_padding()]) == told_of(gateway, rewrap, [*good_padding()])


def told_of(gateway: Gateway, rewrap: Command, plaintexts: list[bytes]) -> list[str]:
    """Everything that is said of a registry with these values, and nothing that is new each time."""
    gateway.delete_everything()
    store(gateway, secrets(3), CBC_KEY)
    gateway.put_all({f"{GUESSES}{number:03}": sealed(one) for number, one in enumerate(plaintexts)})
    ended = rewrap.run("run", "-o", "json")
    service = Command(rewrap.directory, rewrap.flags[:-2])
    ends = [ended, service.run("campaign", "show", ended.document["campaign"], "-o", "json")]
    ends += [rewrap.run(*words) for words in COMMANDS]
    records = [f"{one.key}: {one.value.decode()}" for one in gateway.read("/kube-rewrap/")]
    return sorted(settled(text) for text in [*map(said, ends), *records])


COMMANDS = (("verify",), ("audit", "-o", "json"), ("inspect", f"{GUESSES}005", "-o", "json"))


def said(end: Ended) -> str:
    return f"{end.code}\n{end.stdout}\n{end.stderr}"


_NUMBERS = "revision|mod_revision|proof_revision|tried_at|seconds|log_lead|projected_bytes|last|planned|since"
_NEW_EACH_TIME = (
    (r"\d{8}-\d{6}-[0-9a-f]{6}", "ID"),
    (r"\d{4}-\d{2}-\d{2}T[0-9:.]+(\+00:00|Z)?", "TIME"),
    (r'"sights":\{"secrets":\[\d+', r'"sights":{"secrets":[N'),
    (r'"own":\{"secrets":\[\d+,\d+(,\[\d+,\d+,\d+\])*\]\}', '"own":N'),
    (rf'("?({_NUMBERS})"?:?\s*)"?-?[0-9.]+', r"\1N"),
    (r"(at|past) revision \d+", r"\1 revision N"),
    (r"[0-9a-f]{32}([0-9a-f]{32})?", "HASH"),
    (r'"by":\s*"[0-9a-f]{16}"', "NONCE"),
    (r"\d+ (s|minutes) ago", "AGO"),
    (r"(?<=\w):\d{1,6}\b", ":PORT"),  # or a pid
)


def settled(text: str) -> str:
    """Text without times, ids and revisions."""
    for pattern, name in _NEW_EACH_TIME:
        text = re.sub(pattern, name, text)
    return text
