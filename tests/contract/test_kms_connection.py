"""Which socket the client of a KMS plugin connects to, and how long it waits; tests name their cases."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.kms.client import Status
from tests.contract.kms import PATIENCE, PROJECT, SEED, client_of
from tests.servers.kms_plugin import KmsPlugin, start_plugin


@contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        yield listening


async def test_case_24_the_authority_is_localhost(tmp_path: Path) -> None:
    with listener(tmp_path / "a%20b.sock") as listening:
        listening.setblocking(False)
        loop = asyncio.get_running_loop()

        async def received() -> bytes:
            connection, _ = await loop.sock_accept(listening)
            with connection:
                await loop.sock_sendall(connection, b"\0\0\0\x04\0\0\0\0\0")  # SETTINGS, empty
                found = b""
                while b"/v2.KeyManagementService/Status" not in found:
                    found += await loop.sock_recv(connection, 4096)
                return found

        async with client_of(f"unix://{tmp_path}/a%2520b.sock", seconds=PATIENCE) as client:
            call = asyncio.ensure_future(client.status())
            found = await asyncio.wait_for(received(), PATIENCE)
            with pytest.raises(KmsUnavailableError):
                await call
    # HPACK (RFC 7541): the names are in its static table, grpc writes these values without Huffman coding.
    assert b"\x09localhost" in found
    assert b".sock" not in found


@pytest.mark.parametrize("name", ["k.sock", "a b.sock", "50%.sock", "%2f.sock", "é.sock", "\udcff.sock", "?#.sock"])
async def test_case_24_paths_arrive_as_go_unescapes_them(tmp_path: Path, name: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in os.fsencode(name))
    with listener(tmp_path / name) as listening:
        async with client_of(f"unix://{tmp_path}/{quoted}", seconds=0.3) as client:
            with pytest.raises(KmsUnavailableError, match=r"in time|within"):
                await client.status()
        listening.setblocking(False)
        listening.accept()[0].close()


async def test_case_24_abstract_sockets() -> None:
    name = f"@kube-rewrap test%20 {os.getpid()}"
    with start_plugin("@" + name[1:].replace("%", "-")) as plugin:
        async with client_of(plugin.endpoint) as client:
            assert await client.status() == Status("kek-1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"\0{name[1:]}")
        listening.listen()
        listening.setblocking(False)
        async with client_of(f"unix:///%40{name[1:].replace('%', '%25')}", seconds=0.3) as client:
            with pytest.raises(KmsUnavailableError):
                await client.status()
        listening.accept()[0].close()


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [("unix://", "names no socket"), ("unix:k.sock", "names no socket"), (f"unix:///{'p' * 107}", "108 bytes")],
)
async def test_case_24_an_address_that_no_socket_can_have(endpoint: str, words: str) -> None:
    async with client_of(endpoint) as client:
        for call in (client.status(), client.encrypt(SEED)):
            with pytest.raises(KmsRefusedError, match=f"'vault'.*{words}"):
                await call


async def test_case_24_no_socket_and_no_listener(tmp_path: Path) -> None:
    async with client_of(f"unix://{tmp_path}/kms.sock") as client:
        with pytest.raises(KmsUnavailableError, match=r"'vault'.*does not exist; start the plugin"):
            await client.status()
    with listener(tmp_path / "kms.sock"):
        pass
    async with client_of(f"unix://{tmp_path}/kms.sock") as client:
        with pytest.raises(KmsUnavailableError, match=r"'vault'.*no process accepts"):
            await client.status()


_DENIED = """
import asyncio, ctypes, sys
from kube_rewrap.worker.errors import KmsRefusedError
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.wrapped import Plugin
import os
if sys.argv[2] == "uid":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
else:  # root whose capabilities were all dropped, as by a container's `drop: [ALL]`
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
async def main():
    client = KmsClient(Plugin("vault", "v2", sys.argv[1], 5.0))
    try:
        await client.status()
    except KmsRefusedError as error:
        print(error)
    await client.close()
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("how", ["uid", "capabilities"])
async def test_case_24_permission_denied(how: str) -> None:
    with tempfile.TemporaryDirectory() as directory, start_plugin(f"{directory}/kms.sock") as plugin:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - pathlib's counts as blocking; only the socket's owner may write
        os.chmod(plugin.socket, 0o755)  # noqa: PTH101, S103
        os.chown(plugin.socket, 1234, 1234)
        command = [sys.executable, "-c", _DENIED, plugin.endpoint, how]
        process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, stdout=subprocess.PIPE)
        said, _ = await process.communicate()
    assert "KMS provider 'vault' (v2)" in said.decode()
    assert "permission to write" in said.decode()


async def test_case_14_client_part_a_socket_that_is_re_created_is_found_again(plugin: KmsPlugin) -> None:
    async with client_of(plugin.endpoint) as client:
        await client.status()
        plugin.stop()
        with pytest.raises(KmsUnavailableError):
            await client.status()
        plugin.start()
        found: Status | None = None
        async with asyncio.timeout(PATIENCE):
            while found is None:
                try:
                    found = await client.status()
                except KmsUnavailableError:
                    await asyncio.sleep(0.05)
        assert found == Status("kek-1")


async def test_a_stanza_with_a_timeout_of_hours_keeps_no_call_for_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kube_rewrap.worker.kms.client._LONGEST_CALL", 0.3)
    with listener(tmp_path / "kms.sock"):
        async with client_of(f"unix://{tmp_path / 'kms.sock'}", seconds=36_000.0) as client, asyncio.timeout(10):
            with pytest.raises(KmsUnavailableError, match=r"within 0\.3 s"):
                await client.status()


async def test_a_plugin_that_accepts_and_never_answers(tmp_path: Path) -> None:
    with listener(tmp_path / "kms.sock"):
        async with client_of(f"unix://{tmp_path}/kms.sock", seconds=0.3) as client:
            begun = time.monotonic()
            with pytest.raises(KmsUnavailableError, match="'vault'"):
                await client.status()
            assert time.monotonic() - begun < 2


async def test_a_closed_client_says_so(plugin: KmsPlugin) -> None:
    async with client_of(plugin.endpoint) as client:
        pass
    with pytest.raises(KmsUnavailableError, match="closed"):
        await client.status()


async def test_the_plugin_as_a_process_obeys_its_control_file(tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    control.write_text('{"key_id": "kek-7"}')
    command = [sys.executable, "-m", "tests.servers.kms_plugin", "--socket", f"{tmp_path}/k.sock"]
    process = await asyncio.create_subprocess_exec(
        *command, "--control", str(control), cwd=PROJECT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        async with client_of(f"unix://{tmp_path}/k.sock") as client:
            assert await client.status() == Status("kek-7")
            control.with_suffix(".new").write_text('{"fail": {"v2.Status": "UNAVAILABLE"}}')
            control.with_suffix(".new").rename(control)
            with pytest.raises(KmsUnavailableError):
                await client.status()
    finally:
        process.terminate()
        await process.wait()
