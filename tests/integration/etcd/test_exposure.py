"""A client without certificate and password, against each kind of real etcd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.anonymous import judge_answers, probe
from kube_rewrap.worker.etcd.grants import Access, Exposure
from tests.servers.etcd import REWRAP, EtcdCluster, EtcdOptions
from tests.servers.ports import free_ports

Code = grpc.StatusCode
ANYBODY = ("--client-cert-auth=false", "--trusted-ca-file=")


def settings_for(cluster: EtcdCluster) -> EtcdSettings:
    settings = EtcdSettings(endpoints=tuple(cluster.endpoints))
    if files := cluster.certificates:
        settings = replace(settings, cacert=str(files.cacert), cert=str(files.cert), key=str(files.key))
    if login := cluster.login:
        settings = replace(settings, user=login.name, password=SecretBytes(login.password.encode()))
    return settings


async def test_etcd_that_asks_for_certificates_refuses(etcd_tls: EtcdCluster) -> None:
    [url] = etcd_tls.endpoints
    settings = settings_for(etcd_tls)
    assert await probe(settings) == (Exposure(url, secure=True, local=True, access=Access.REFUSES),)
    bare = url.removeprefix("https://")
    assert await probe(replace(settings, endpoints=(bare,))) == (
        Exposure(bare, secure=True, local=True, access=Access.REFUSES),
    )


async def test_etcd_without_tls_answers(etcd: EtcdCluster) -> None:
    [url] = etcd.endpoints
    assert await probe(settings_for(etcd)) == (Exposure(url, secure=False, local=True, access=Access.ANSWERS),)


async def test_etcd_with_users_asks_for_a_password(etcd_auth: EtcdCluster) -> None:
    [url] = etcd_auth.endpoints
    settings = settings_for(etcd_auth)
    assert settings.user == REWRAP.name
    assert await probe(settings) == (Exposure(url, secure=False, local=True, access=Access.ASKS_PASSWORD),)


async def test_etcd_with_tls_alone_answers_whoever_trusts_it(new_etcd: Callable[[EtcdOptions], EtcdCluster]) -> None:
    cluster = new_etcd(EtcdOptions(tls=True, extra_args=ANYBODY))
    [url] = cluster.endpoints
    assert await probe(settings_for(cluster)) == (Exposure(url, secure=True, local=True, access=Access.ANSWERS),)


async def test_where_nobody_answers_nobody_can_tell() -> None:
    [port] = free_ports(1)
    settings = EtcdSettings(endpoints=(f"http://localhost:{port}",))
    because = "the endpoint does not answer with our certificate either"
    assert await probe(settings) == (
        Exposure(f"http://localhost:{port}", secure=False, local=True, access=Access.UNCLEAR, because=because),
    )


async def test_a_file_that_is_not_there_is_the_settings_fault() -> None:
    with pytest.raises(SettingsError):
        await probe(EtcdSettings(endpoints=("https://127.0.0.1:1",), cacert="/nonexistent"))


@pytest.mark.parametrize(
    ("stranger", "ours", "access", "because"),
    [
        pytest.param((Code.OK, ""), Code.OK, Access.ANSWERS, "", id="it answers a stranger"),
        pytest.param(
            (Code.INVALID_ARGUMENT, "etcdserver: user name is empty"),
            Code.OK,
            Access.ASKS_PASSWORD,
            "",
            id="it asks who is there",
        ),
        pytest.param((Code.PERMISSION_DENIED, ""), Code.OK, Access.ASKS_PASSWORD, "", id="it denies the read"),
        pytest.param((Code.UNAVAILABLE, ""), Code.OK, Access.REFUSES, "", id="only our certificate is answered"),
        pytest.param(
            (Code.UNAVAILABLE, ""),
            Code.INVALID_ARGUMENT,
            Access.REFUSES,
            "",
            id="with our certificate it asks for a password",
        ),
        pytest.param(
            (Code.UNAVAILABLE, ""),
            Code.UNAVAILABLE,
            Access.UNCLEAR,
            "the endpoint does not answer with our certificate either",
            id="nobody is there",
        ),
        pytest.param(
            (Code.DEADLINE_EXCEEDED, ""),
            Code.OK,
            Access.UNCLEAR,
            "the call ended with DEADLINE_EXCEEDED",
            id="too slow to tell, though our certificate is answered",
        ),
        pytest.param(
            (Code.UNIMPLEMENTED, ""), Code.OK, Access.UNCLEAR, "the call ended with UNIMPLEMENTED", id="no etcd"
        ),
    ],
)
def test_what_answers_mean(
    stranger: tuple[grpc.StatusCode, str], ours: grpc.StatusCode, access: Access, because: str
) -> None:
    assert judge_answers(stranger, (ours, "")) == (access, because)
