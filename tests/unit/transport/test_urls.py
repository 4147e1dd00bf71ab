"""What a broker URL means to the transport, before anything is connected."""

from __future__ import annotations

import ssl

import pytest
from kombu import Connection

from orchestrator.core.errors import InvalidSettings
from orchestrator.transport import Transport
from orchestrator.transport.redis.unix_socket import UnixSocket, unix_socket

TRANSPORT = "orchestrator.transport:Transport"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis:///run/redis.sock", UnixSocket("/run/redis.sock")),
        ("redis:///run/Redis/r.sock/3", UnixSocket("/run/Redis/r.sock", 3)),
        ("redis://user:secret@/run/redis.sock", UnixSocket("/run/redis.sock")),
        ("redis://localhost/3", None),
        ("redis:///3", None),
        ("redis://", None),
    ],
)
def test_a_url_without_a_host_but_with_a_path_names_a_unix_socket(url: str, expected: UnixSocket | None) -> None:
    client = Connection(url, transport=TRANSPORT).transport.client
    assert unix_socket(client.hostname, client.virtual_host) == expected


def test_rediss_means_tls() -> None:
    """Regression: kombu dropped the scheme, and without further options the connection was not encrypted."""
    assert Connection("rediss://127.0.0.1:1/0", transport=TRANSPORT).transport.client.ssl
    checked = Connection("rediss://127.0.0.1:1/0?ssl_cert_reqs=CERT_REQUIRED", transport=TRANSPORT)
    assert checked.transport.client.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert not Connection("redis://127.0.0.1:1/0", transport=TRANSPORT).transport.client.ssl


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6390/2",
        "redis://user:**@127.0.0.1:6390/2",
        "redis:///run/redis.sock/3",
        "redis://user:**@/run/redis.sock/3",
        "rediss://127.0.0.1:6390/0",
    ],
)
def test_a_url_is_shown_as_its_user_wrote_it(url: str) -> None:
    assert Connection(url.replace("**", "secret"), transport=TRANSPORT).as_uri() == url


def test_with_a_primary_s_name_the_urls_are_those_of_sentinels() -> None:
    urls = "sentinel://a:26379/0;sentinel://b:26380/0"
    connection = Connection(urls, transport=TRANSPORT, transport_options={"master_name": "main"})
    assert connection.as_uri() == "sentinel://a:26379/0"
    assert connection.transport.Channel.__name__ == "SentinelChannel"
    before = connection.transport.broker
    connection.switch("sentinel://b:26380/0")
    assert connection.as_uri() == "sentinel://b:26380/0"
    assert connection.transport.broker == before


def test_a_connection_with_several_urls_keeps_its_transport() -> None:
    """Regression: kombu took the transport from the scheme of the URL that it switched to, which was its own."""
    connection = Connection(["redis://a:1/0", "redis://b:2/0"], transport=TRANSPORT)
    assert isinstance(connection.transport, Transport)
    connection.switch("redis://b:2/0")
    assert connection.hostname == "b"
    assert isinstance(connection.transport, Transport)
    assert isinstance(connection.clone().transport, Transport)


def test_kombu_does_not_switch_one_connection_by_itself() -> None:
    """The broker says which of the servers is in use, for all connections alike."""
    connection = Connection("redis://a:1/0;redis://b:2/0", transport=TRANSPORT)
    broker = connection.transport.broker
    connection.maybe_switch_next()
    assert connection.hostname == "a"
    assert [str(server) for server in broker.servers] == ["a:1", "b:2"]
    assert Connection(["redis://a:1/0", "redis://b:2/0"], transport=TRANSPORT).transport.broker is broker


@pytest.mark.parametrize(
    ("urls", "allowed"),
    [
        ("redis://a:1/0;rediss://b:2/0", "one scheme"),
        ("redis://a:1/0;redis://b:2/1", "one database"),
        ("redis://a:1/0;redis:///run/b.sock", "one kind"),
    ],
)
def test_several_urls_differ_in_their_server_only(urls: str, allowed: str) -> None:
    with pytest.raises(InvalidSettings, match=allowed):
        _ = Connection(urls, transport=TRANSPORT).transport


@pytest.mark.parametrize("urls", ["redis://a:1;redis://:secret@b/0", "redis:///run/a.sock/3;redis:///run/b.sock/3"])
def test_several_urls_may_leave_out_what_is_usual(urls: str) -> None:
    assert len(Connection(urls, transport=TRANSPORT).transport.broker.servers) == 2


def test_a_primary_s_name_makes_no_sentinel_of_a_redis_url() -> None:
    """Regression: kombu ignores the option there; an app that always sets it never connected."""
    connection = Connection("redis://a:6390/0", transport=TRANSPORT, transport_options={"master_name": "main"})
    for each in (connection, connection.clone()):
        assert each.as_uri() == "redis://a:6390/0"
        assert each.transport.Channel.__name__ == "Channel"


def test_a_clone_of_a_sentinel_s_connection_is_one_too() -> None:
    connection = Connection("sentinel://a/0", transport=TRANSPORT, transport_options={"master_name": "main"})
    assert connection.as_uri() == "sentinel://a:26379/0"
    clone = connection.clone()
    assert clone.transport.Channel.__name__ == "SentinelChannel"
    assert clone.as_uri() == "sentinel://a:26379/0"
    assert isinstance(clone.transport, Transport)


def test_a_sentinel_s_url_without_a_primary_s_name_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="needs master_name"):
        _ = Connection("sentinel://a/0", transport=TRANSPORT).transport


@pytest.mark.parametrize("url", ["redis://h/abc", "redis://h:0/0", "redis://h:65536/0", "rediss://h:x/0"])
def test_a_url_that_cannot_be_used_is_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(InvalidSettings, match="allowed: a port from 1 to 65535, and a database number after the slash"):
        _ = Connection(url, transport=TRANSPORT).transport
