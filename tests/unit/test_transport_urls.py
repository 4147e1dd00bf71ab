"""What a broker URL means to the transport, before anything is connected."""

from __future__ import annotations

import ssl

import pytest
from kombu import Connection

from orchestrator.transport import Transport
from orchestrator.transport.unix_socket import UnixSocket, unix_socket

TRANSPORT = "orchestrator.transport:Transport"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis:///run/redis.sock", UnixSocket("/run/redis.sock")),
        ("redis:///run/Redis/r.sock/3", UnixSocket("/run/Redis/r.sock", 3)),
        ("redis://user:secret@/run/redis.sock", UnixSocket("/run/redis.sock")),
        ("redis://localhost/3", None),
        ("redis://localhost:6379//run/redis.sock", None),
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


def test_the_next_of_several_urls_is_used_with_the_same_transport() -> None:
    """Regression: kombu took the transport from the scheme of the URL that it switched to, which was its own."""
    connection = Connection(["redis://a:1/0", "redis://b:2/0"], transport=TRANSPORT)
    assert isinstance(connection.transport, Transport)
    connection.maybe_switch_next()
    assert connection.hostname == "b"
    assert isinstance(connection.transport, Transport)
    assert isinstance(connection.clone().transport, Transport)
