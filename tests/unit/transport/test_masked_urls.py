"""No broker URL shows its password, however badly it is written."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from orchestrator import Orchestrator
from orchestrator.cli.doctor import main as doctor
from orchestrator.command import main as health
from orchestrator.core.checks.broker_url import masked, problems_of
from orchestrator.core.errors import CallerError, InvalidSettings
from orchestrator.core.settings import load_settings
from orchestrator.health.ask_redis import asked
from orchestrator.transport.store import open_store

#: Passwords that have to be encoded, and are not.
UNENCODED = [
    "redis://:hu;nt@host/0",
    "redis://:12;hunt@host/0",
    "redis://:hunt/er7@host/0",
    "redis://:12/hunt@host",
    "redis://user:12/hunt@host",
    "redis://user:hunt?er7@host/0",
    "redis://:12?hunt@host/0",
    "redis://:12#hunt@host",
    "redis://:1@/hunt@host",
    "redis://hunt/er7@host",
]

#: Parts of a URL are missing.
INCOMPLETE = ["redis://:hunt", "redis://user:hunt", "redis://[user:hunt@host"]


def assert_hidden(text: str) -> None:
    assert "hunt" not in text
    assert "hu;" not in text
    assert "er7" not in text
    assert "12" not in text
    assert "nt@" not in text


@pytest.mark.parametrize("url", [*UNENCODED, *INCOMPLETE])
def test_a_bad_url_is_refused_without_any_part_of_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load_settings(broker_url=url)
    assert_hidden(str(refused.value))
    with pytest.raises(InvalidSettings) as refused:
        _ = Connection(url, transport="orchestrator.transport:Transport").transport
    assert_hidden(str(refused.value))
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", url)
    assert_hidden(asked())
    assert health(["health", "--sweep"]) == 2
    monkeypatch.delenv("ORCHESTRATOR_BROKER_URL")
    assert doctor(["--broker", url]) == 2
    assert_hidden(capsys.readouterr().err)


@pytest.mark.parametrize("url", UNENCODED)
def test_the_refusal_names_what_has_to_be_encoded(url: str) -> None:
    (problem,) = problems_of(url)
    assert problem.endswith(": allowed: %2F %3F %23 %3B %40 instead of / ? # ; @ in a user, a password or a query")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:secret@host:6379/0", "redis://user:**@host:6379/0"),
        ("redis://user@host/0", "redis://user@host/0"),
        ("redis://:p@ss@host/0", "redis://:**@host/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis:///run/r@x.sock/3", "redis:///run/r@x.sock/3"),
        ("redis://user:secret@/run/r.sock", "redis://user:**@/run/r.sock"),
        ("redis://a:1/0;rediss://:secret@b/0", "redis://a:1/0;rediss://:**@b/0"),
        ("rediss://host/0?ssl_keyfile_password=secret", "rediss://host/0?…"),
        ("user:secret@host", "(not shown)"),
    ],
)
def test_all_else_of_a_url_is_shown(url: str, expected: str) -> None:
    assert masked(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://user:secret@host//", "amqp://user:**@host:5672//"),
        ("amqp://user@host//", "amqp://user@host:5672//"),
        ("memory://", "memory://localhost//"),
    ],
)
def test_another_broker_s_url_is_shown_without_its_password(url: str, expected: str) -> None:
    with pytest.raises(CallerError) as refused:
        open_store(Connection(url))
    assert f"broker {expected} uses" in str(refused.value)


def test_a_url_that_kombu_cannot_parse_is_refused_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    """kombu's own error quotes what it took for the port."""
    assert doctor(["--broker", "amqp://user:hunt/er7@host//"]) == 2
    said = capsys.readouterr().err
    assert "broker_url='amqp://user:**@host//': not a URL; allowed: %2F" in said
    assert_hidden(said)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:hunt@host/0", "redis://user:**@host/0"),
        ("memory://", "memory://"),
        (["redis://a/0", "redis://:hunt@b/0"], "redis://a/0;redis://:**@b/0"),
    ],
)
@pytest.mark.parametrize("setting", ["broker_url", "broker_read_url", "broker_write_url"])
def test_celerys_report_shows_a_password_only_where_there_is_one(setting: str, url: Any, expected: str) -> None:
    """Regression: `celery report` showed every broker URL with a masked password."""
    app = Celery("shop", set_as_current=False)
    Orchestrator(app)
    app.conf[setting] = url
    assert f"{setting}: '{expected}'" in app.conf.humanize()
    assert app.conf.table(censored=False)[setting] == url


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/0", "rediss://h:1/0", "redis:///run/redis.sock"])
def test_celerys_banner_shows_no_password_where_there_is_none(url: str) -> None:
    """The banner of a worker and of beat, and `Connected to`, are what kombu says of the connection."""
    app = Celery("shop", broker=url, set_as_current=False)
    Orchestrator(app)
    assert app.connection().as_uri().removesuffix("/0") == url.removesuffix("/0")
