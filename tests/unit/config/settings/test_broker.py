"""One URL becomes what redis-py and kombu need; an error about it quotes no part of it."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.connection import Connection
from kombu.utils.url import url_to_parts

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.broker import Broker, Tls, parse_broker
from kube_rewrap.config.settings.schema import BrokerSettings

PASSWORD = "CanaryPassword~0123456789"
FILES = {"cacert": "/ca.pem", "cert": "/cert.pem", "key": "/key.pem"}
VERIFIED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
SSL_FILES = {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/cert.pem", "ssl_keyfile": "/key.pem"}


def settings(url: str, **others: str | float) -> BrokerSettings:
    return BrokerSettings(url=SecretBytes(url.encode()), **others)  # type: ignore[arg-type]


def parsed(url: str, **others: str | float) -> Broker:
    return parse_broker(settings(url, **others))


def login(broker: Broker) -> tuple[str | None, str | None]:
    return broker.user, broker.password.reveal().decode() if broker.password else None


def test_the_default_is_redis_on_this_machine() -> None:
    assert parse_broker(BrokerSettings()) == Broker((("127.0.0.1", 6379),), None, 0, None, None, None, 5.0)


@pytest.mark.parametrize(
    ("url", "nodes", "db", "user", "password"),
    [
        pytest.param("redis://redis", [("redis", 6379)], 0, None, None, id="a host alone"),
        pytest.param("redis://redis/", [("redis", 6379)], 0, None, None, id="a slash and no database"),
        pytest.param("redis://10.0.0.7:7000/3", [("10.0.0.7", 7000)], 3, None, None, id="port and database"),
        pytest.param("redis://[::1]:7000/3", [("::1", 7000)], 3, None, None, id="IPv6"),
        pytest.param("redis://:pass@redis", [("redis", 6379)], 0, None, "pass", id="a password and no user"),
        pytest.param("redis://me:pass@redis", [("redis", 6379)], 0, "me", "pass", id="user and password"),
        pytest.param("redis://m%40e:p%2F%3B%25@redis", [("redis", 6379)], 0, "m@e", "p/;%", id="percent-encoded"),
        pytest.param("redis://me:p@s:s@redis", [("redis", 6379)], 0, "me", "p@s:s", id="the last @ is the one"),
        pytest.param("sentinel://a", [("a", 26379)], 0, None, None, id="one sentinel"),
        pytest.param(
            "sentinel://a:1;sentinel://b:2/5", [("a", 1), ("b", 2)], 5, None, None, id="the database behind the last"
        ),
        pytest.param(
            "sentinel://me:pass@a:1/5;sentinel://b:2;sentinel://c",
            [("a", 1), ("b", 2), ("c", 26379)],
            5,
            "me",
            "pass",
            id="user and database at the first",
        ),
    ],
)
def test_urls(url: str, nodes: list[tuple[str, int]], db: int, user: str | None, password: str | None) -> None:
    broker = parsed(url)
    assert (list(broker.nodes), broker.db, login(broker)) == (nodes, db, (user, password))
    assert broker.master == ("mymaster" if url.startswith("sentinel") else None)


@pytest.mark.parametrize(
    ("url", "files", "expected"),
    [
        pytest.param("redis://h", {}, None, id="redis => clear text"),
        pytest.param("rediss://h", {}, VERIFIED, id="rediss => verified by the system's roots"),
        pytest.param("rediss://h", FILES, VERIFIED | SSL_FILES, id="rediss with files"),
        pytest.param("sentinel://h", {}, None, id="sentinel => clear text"),
        pytest.param("sentinel://h", FILES, VERIFIED | SSL_FILES, id="sentinel with files => TLS"),
    ],
)
def test_tls(url: str, files: dict[str, str], expected: dict[str, object] | None) -> None:
    broker = parsed(url, **files)
    assert broker.use_ssl() == expected
    assert (broker.tls.options() if broker.tls else None) == expected


def test_transport_options() -> None:
    timeouts = {"socket_timeout": 2.5, "socket_connect_timeout": 2.5}
    assert parsed("redis://h", timeout=2.5).transport_options() == {**timeouts, "health_check_interval": 10}
    assert parsed("sentinel://h", timeout=2.5, sentinel_master="other").transport_options() == {
        **timeouts,
        "health_check_interval": 10,
        "master_name": "other",
        "sentinel_kwargs": {**timeouts, "retry": None},
    }
    assert parsed("sentinel://h", timeout=2.5, **FILES).transport_options()["sentinel_kwargs"] == {
        **timeouts,
        "retry": None,
        "ssl": True,
        **VERIFIED,
        **SSL_FILES,
    }


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://me:pass@redis:7000/3", "redis:7000"),
        ("rediss://[::1]", "[::1]:6379"),
        ("sentinel://me:pass@a:1;sentinel://b/5", "mymaster of a:1, b:26379"),
    ],
)
def test_the_place_has_neither_user_nor_password(url: str, place: str) -> None:
    assert parsed(url, **(FILES if url.startswith("rediss") else {})).place == place


# ------------------------------------------------------------------------------------------------------- kombu's own


def test_each_sentinel_of_kombus_url_has_user_and_database() -> None:
    url = parsed("sentinel://a:1;sentinel://me:p%3Bw@b:2/5").url.reveal()
    assert url == b"sentinel://me:p%3Bw@a:1/5;sentinel://me:p%3Bw@b:2/5"


@given(
    user=st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), max_size=20),
    password=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    scheme=st.sampled_from(["redis", "rediss", "sentinel"]),
    db=st.integers(0, 999_999),
)
def test_kombu_reads_what_was_given(user: str, password: str, scheme: str, db: int) -> None:
    plain = Broker(
        (("h", 7000),),
        "mymaster" if scheme == "sentinel" else None,
        db,
        user or None,
        SecretBytes(password.encode()),
        Tls(None, None, None) if scheme == "rediss" else None,
        5.0,
    )
    text = plain.url.reveal().decode()
    assert parsed(text) == plain
    found = url_to_parts(text)
    assert (found.scheme, found.hostname, found.port, found.path) == (scheme, "h", 7000, str(db))
    assert (found.username or "", found.password) == (user, password)


def test_kombu_shows_no_password_of_sentinels() -> None:
    broker = parsed(f"sentinel://a:1;sentinel://:{PASSWORD}@b:2/5")
    url, options = broker.url.reveal().decode(), broker.transport_options()
    connection = Connection(url, transport_options=options)  # type: ignore[no-untyped-call]
    assert connection.as_uri() == "sentinel://:**@a:1/5"
    assert connection.password == PASSWORD
    assert PASSWORD not in repr(connection)
    connection.switch(connection.alt[1])  # type: ignore[no-untyped-call]
    assert (connection.hostname, connection.port, connection.virtual_host) == ("b", 2, "5")
    assert connection.password == PASSWORD


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        pytest.param("", "can't be read", id="nothing"),
        pytest.param(PASSWORD, "can't be read", id="a password instead of a URL"),
        pytest.param(f"amqp://me:{PASSWORD}@h", "can't be read", id="another broker"),
        pytest.param(f"unix://{PASSWORD}@/run/redis.sock", "can't be read", id="a socket"),
        pytest.param(f"redis://me:{PASSWORD}@h:port", "can't be read", id="a port that is no number"),
        pytest.param(f"redis://me:{PASSWORD}@h:65536", "can't be read", id="a port that is none"),
        pytest.param(f"redis://me:{PASSWORD}@h:0", "names port 0", id="port 0"),
        pytest.param(f"redis://me:{PASSWORD}@[::1", "can't be read", id="half a bracket"),
        pytest.param(f"redis://me:{PASSWORD}/x@h", "can't be read", id="a slash in a password"),
        pytest.param(f"redis://:12/{PASSWORD}@h", "names no host", id="a slash in a password, behind digits"),
        pytest.param(f"redis://me:12/{PASSWORD}@h", "names no database", id="the same with a user"),
        pytest.param(f"redis://me:{PASSWORD}#x@h", "holds ? or #", id="a hash in a password"),
        pytest.param(f"redis://me:{PASSWORD}?x@h", "holds ? or #", id="a question mark in a password"),
        pytest.param(f"rediss://me:{PASSWORD}@h?ssl_cert_reqs=none", "holds ? or #", id="an option that weakens TLS"),
        pytest.param(f"redis://{PASSWORD}@h", "has a user but no password", id="the password where the user belongs"),
        pytest.param(f"redis://{PASSWORD}:@h", "has a user but no password", id="an empty password"),
        pytest.param(f"redis://me:{PASSWORD}%FF@h", "has a user or password that is not UTF-8", id="not UTF-8"),
        pytest.param(f"redis://me:{PASSWORD}@", "names no host", id="no host"),
        pytest.param(f"redis://me:{PASSWORD}@h%41", "names no host", id="an encoded host"),
        pytest.param(f"redis://:{PASSWORD}@h;redis://h2", "names no host", id="two of Redis"),
        pytest.param(f"redis://me:{PASSWORD}@h/one", "names no database", id="a database with a name"),
        pytest.param(f"redis://me:{PASSWORD}@h/-1", "names no database", id="a database below 0"),
        pytest.param(f"redis://me:{PASSWORD}@h\n", "holds white space", id="a line break at the end"),
        pytest.param(f"redis://me:{PASSWORD} @h", "holds white space", id="a space"),
        pytest.param(f"sentinel://me:{PASSWORD}@a;b:26379", "can't be read", id="a sentinel without a scheme"),
        pytest.param(f"sentinel://me:{PASSWORD}@a;", "can't be read", id="a semicolon at the end"),
        pytest.param(f"sentinel://me:{PASSWORD}@a;redis://b", "names a sentinel without sentinel://", id="a mixture"),
        pytest.param(f"sentinel://me:{PASSWORD};x@a", "can't be read", id="a semicolon in a password"),
        pytest.param(
            f"sentinel://me:{PASSWORD}@a;sentinel://me:{PASSWORD}2@b",
            "names more than one user or password",
            id="two passwords",
        ),
        pytest.param("sentinel://a/1;sentinel://b/2", "names more than one database", id="two databases"),
    ],
)
def test_a_bad_url_is_refused_without_repeating_it(url: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed(url)
    assert str(caught.value).startswith(f"settings: broker.url: {fault}")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert PASSWORD not in shown
    assert caught.value.__context__ is None


def test_certificates_without_tls_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"broker\.url: has no TLS, but certificate files are given"):
        parsed("redis://h", **FILES)


def test_sentinels_need_the_name_of_the_master() -> None:
    with pytest.raises(SettingsError, match=r"broker\.sentinel_master: is empty"):
        parsed("sentinel://h", sentinel_master="")


# -------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("url", [f"redis://me:{PASSWORD}@h", f"sentinel://me:{PASSWORD}@a;sentinel://b"])
def test_nothing_printed_of_it_shows_the_password(url: str) -> None:
    broker = parsed(url)
    shown = [repr(broker), str(broker), f"{broker}", repr(broker.url), broker.place, repr(broker.transport_options())]
    assert [text for text in shown if PASSWORD in text] == []
    assert PASSWORD in broker.url.reveal().decode()
