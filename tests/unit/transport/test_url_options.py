"""What a broker URL's query and ``broker_transport_options`` may say; anything else is refused by its name."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import redis as kombu_redis
from redis.credentials import UsernamePasswordCredentialProvider

from orchestrator import Agent, InvalidSettings, Message, Orchestrator, handles, load_settings
from orchestrator.transport import transport
from orchestrator.transport.options import Options
from orchestrator.transport.transport import TRANSPORT


class Charge(Message):
    cents: int


class Billing(Agent):
    name = "billing"

    @handles(Charge)
    def charge(self, message: Charge) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def _nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_warned", set())


def connect(url: str, **options: Any) -> Any:
    return Connection(url, transport=TRANSPORT, **options).transport


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("password=hunter2", r"password is no option of its query; allowed: redis://USER:PASSWORD@HOST"),
        ("username=u", "username is no option of its query"),
        ("userid=u", "userid is no option of its query"),
        ("hostname=x", "hostname is no option of its query; allowed: redis://HOST"),
        ("port=1", "port is no option of its query; allowed: redis://HOST:PORT"),
        ("db=1", "db is no option of its query; allowed: redis://HOST/DB"),
        ("virtual_host=1", "virtual_host is no option of its query"),
        ("transport=redis", "transport is no option of its query"),
        ("ssl=true", "ssl is no option of its query; allowed: rediss://"),
        ("foo=1", "unknown option foo; allowed: ssl_cert_reqs, "),
        ("health_check_interval=abc", "unknown option health_check_interval; allowed: .* broker_transport_options"),
        ("socket_timeout=5", "unknown option socket_timeout"),
        ("ssl_cert_req=none", "unknown option ssl_cert_req; allowed: .*; did you mean 'ssl_cert_reqs'"),
        ("ssl_min_version=771", "unknown option ssl_min_version"),
        ("ssl_cert_reqs=foo", "option ssl_cert_reqs has a value .* allowed: CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE"),
        ("ssl_cert_reqs=", "option ssl_cert_reqs has a value"),
        ("ssl_check_hostname=fasle", "option ssl_check_hostname .* allowed: true, false"),
        ("ssl_ca_certs=", "option ssl_ca_certs .* allowed: a text"),
        ("heartbeat=abc", "option heartbeat .* allowed: seconds, 0 or more"),
        ("connect_timeout=-1", "option connect_timeout .* allowed: seconds, 0 or more"),
        ("heartbeat=nan", "option heartbeat .* allowed: seconds, 0 or more"),
        ("ssl_cert_reqs=none&ssl_cert_reqs=required", "option ssl_cert_reqs occurs 2 times; allowed: once"),
        ("hunter2", "unknown option in its query"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "sentinel"])
def test_a_bad_option_is_refused_by_its_name(scheme: str, query: str, said: str) -> None:
    """Regression: TypeError, KeyError or ValueError from within kombu, or no word at all."""
    url = f"{scheme}://h/0?{query}"
    with pytest.raises(InvalidSettings, match=said) as refused:
        connect(url, transport_options={"master_name": "main"})
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidSettings, match=said) as refused:
        load_settings(broker_url=url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "option", ["ssl_cert_reqs=none", "ssl_ca_certs=/etc/ca.pem", "heartbeat=5&ssl_password=hunter2"]
)
@pytest.mark.parametrize("where", ["h/0", "u:p@h:6379/0", "/run/redis.sock"])
def test_options_of_tls_need_a_url_with_tls(where: str, option: str) -> None:
    """Regression: kombu turned TLS on, and the server refused the connection without a reason."""
    for use in (connect, lambda url: load_settings(broker_url=url)):
        with pytest.raises(InvalidSettings, match=r"option ssl_.* is for TLS; allowed: with rediss://") as refused:
            use(f"redis://{where}?{option}")
        assert "hunter2" not in str(refused.value)
    assert connect(f"sentinel://h/0?{option}", transport_options={"master_name": "main"})


def test_each_of_several_urls_is_looked_at() -> None:
    with pytest.raises(InvalidSettings, match=r"'redis://b/0.*unknown option foo"):
        connect("redis://a/0;redis://b/0?foo=1")


@pytest.mark.parametrize("url", ["redis://h/0?foo=1", "rediss://h/0?ssl_cert_reqs=foo"])
def test_whoever_uses_it_is_told(url: str) -> None:
    app = Celery("shop", broker=url, set_as_current=False)
    orchestrator = Orchestrator(app)
    orchestrator.host(Billing)
    for use in (lambda: orchestrator.send("billing", Charge(cents=1)), lambda: orchestrator.runtime.store):
        with pytest.raises(InvalidSettings, match="option"):
            use()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/etc/ca.pem",
        "ssl_cert_reqs=none&ssl_check_hostname=False&ssl_ciphers=HIGH",
        "ssl_certfile=/c&ssl_keyfile=/k&ssl_password=a%26b&ssl_ca_path=/p&ssl_ca_data=x",
        "heartbeat=10&connect_timeout=2.5",
        "credential_provider=redis.credentials.UsernamePasswordCredentialProvider",
    ],
)
def test_what_is_known_is_taken(query: str) -> None:
    assert connect(f"rediss://h/0?{query}").client.ssl


@pytest.mark.parametrize("path", ["no.such.Provider", "redis.credentials.Nobody", "nonsense", "redis.__version__"])
def test_a_provider_of_credentials_that_cannot_be_imported_is_refused(path: str) -> None:
    with pytest.raises(InvalidSettings, match=f"credential_provider='{path}'.* redis.CredentialProvider"):
        connect(f"redis://h/0?credential_provider={path}")


def test_a_provider_may_be_an_object() -> None:
    assert connect("redis://h/0", credential_provider=UsernamePasswordCredentialProvider("u", "p"))


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("health_check_interval", "abc", "seconds, 0 or more"),
        ("health_check_interval", -1, "seconds, 0 or more"),
        ("socket_timeout", "5", "seconds above 0"),
        ("socket_timeout", 0, "seconds above 0"),
        ("socket_connect_timeout", True, "seconds above 0"),
        ("polling_interval", "1", "seconds"),
        ("interval_max", [], "seconds"),
        ("max_connections", 2.5, "a number"),
        ("max_retries", "3", "a number"),
        ("min_other_sentinels", "x", "a number"),
        ("socket_keepalive", "yes", "true, false"),
        ("retry_on_timeout", 1, "true, false"),
        ("fanout_patterns", "no", "true, false"),
        ("fanout_prefix", 5, "true, false, or a prefix"),
        ("global_keyprefix", 7, "a text"),
        ("client_name", 7, "a text"),
        ("master_name", ["main"], "a text"),
        ("sep", 1, "a text"),
        ("socket_keepalive_options", "x", "a mapping"),
        ("sentinel_kwargs", "password=hunter2", "a mapping"),
        ("priority_steps", "0369", "a list of numbers"),
        ("priority_steps", [0, "3"], "a list of numbers"),
        ("priority_steps", [], "a list of numbers"),
        ("queue_order_strategy", "sortd", "round_robin, sorted, priority"),
        ("heartbeat_s", "abc", "a number above 0"),
        ("dead_letter_expired", "no", "true, false"),
        ("redact", "password", "a list of names"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_by_its_name(option: str, value: Any, allowed: str) -> None:
    if option not in ("heartbeat_s", "dead_letter_expired", "redact"):
        with pytest.raises(
            InvalidSettings, match=f"broker_transport_options: {option}=.*allowed: {allowed}"
        ) as refused:
            connect("redis://h/0", transport_options={option: value})
        assert "hunter2" not in str(refused.value)
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_transport_options = {option: value}
    orchestrator = Orchestrator(app)
    orchestrator.host(Billing)
    with pytest.raises(InvalidSettings, match=f"{option}=.*allowed: {allowed}"):
        orchestrator.send("billing", Charge(cents=1))


@pytest.mark.parametrize(
    "options",
    [
        {
            "health_check_interval": None,
            "socket_timeout": 5,
            "priority_steps": (0, 1),
            "queue_order_strategy": "sorted",
        },
        {"queue_order_strategy": "kombu.utils.scheduling.sorted_cycle", "fanout_prefix": "/x.", "max_retries": 0},
        {"visibility_timeout": 3600, "region": "eu", "master_name": "main"},
    ],
)
def test_what_kombu_takes_is_taken(options: dict[str, Any]) -> None:
    assert connect("redis://h/0", transport_options=options)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("heartbeats_s", "did you mean 'heartbeat_s'?"),
        ("Max_deaths", "did you mean 'max_deaths'?"),
        ("visibility_timeuot", "did you mean 'visibility_timeout'?"),
        ("socket_keep_alive", "did you mean 'socket_keepalive'?"),
        ("result_chord_ordered", "allowed: in result_backend_transport_options"),
        ("region", "has no effect"),
        (7, "has no effect"),
    ],
)
def test_an_unknown_option_is_warned_of_once(caplog: pytest.LogCaptureFixture, option: Any, said: str) -> None:
    """Regression: it was ignored without a word."""
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            connect("redis://h/0", transport_options={option: "hunter2", "heartbeat_s": 0.5})
    (warned,) = [r.getMessage() for r in caplog.records if "broker_transport_options" in r.getMessage()]
    assert warned.startswith(f"broker_transport_options: {option!r} is not an option, and has no effect")
    assert said in warned
    assert "hunter2" not in caplog.text


def test_no_known_option_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    names = [
        *Options.names(), *kombu_redis.SentinelChannel.from_transport_options, "polling_interval", "max_retries",
        "interval_start", "interval_step", "interval_max", "connect_retries_timeout", "errback", "callback",
        "reauth_check_interval", "unacked_restore_interval", "retry", "retry_on_error",
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert connect("redis://h/0", transport_options=dict.fromkeys(names))
        orchestrator = Orchestrator(Celery("shop", broker="redis://h/0", set_as_current=False), load_settings())
        assert orchestrator.app.connection_for_write().transport
    assert not [r for r in caplog.records if r.name.startswith("orchestrator")]


@pytest.mark.parametrize(
    ("use_ssl", "said"),
    [
        (True, r"broker_use_ssl=True: allowed: a mapping"),
        ({"keyfile": "/k"}, "unknown option 'keyfile'; allowed: ssl_keyfile"),
        ({"ssl_cert_reqs": "CERT_REQUIRED"}, "ssl_cert_reqs='CERT_REQUIRED'; allowed: required, optional, none"),
        ({"ssl_cert_reqs": 7}, "ssl_cert_reqs=7; allowed"),
    ],
)
def test_tls_options_that_redis_cannot_use_are_refused(use_ssl: Any, said: str) -> None:
    """Regression: with ``True`` kombu connected without TLS, even to a rediss:// URL."""
    for scheme in ("redis", "rediss"):
        with pytest.raises(InvalidSettings, match=said):
            connect(f"{scheme}://h/0", ssl=use_ssl)


@pytest.mark.parametrize("required", ["required", ssl.CERT_NONE, ssl.CERT_OPTIONAL, None])
def test_tls_options_that_redis_can_use_are_taken(required: Any) -> None:
    assert connect("redis://h/0", ssl={"ssl_cert_reqs": required, "ssl_min_version": ssl.TLSVersion.TLSv1_2})
