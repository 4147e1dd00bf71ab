"""Settings: where they come from, and what is said of bad ones."""

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Settings, load_settings
from orchestrator.core.errors import InvalidSettings

PASSWORD = "hunter2"
PROFILES = sorted((Path(__file__).parents[3] / "config").glob("*.toml"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ORCHESTRATOR_"):
            monkeypatch.delenv(name)


def profile(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    return path


def refusal(**values: Any) -> str:
    with pytest.raises(InvalidSettings) as refused:
        load_settings(**values)
    return str(refused.value)


def test_there_is_a_default_for_everything() -> None:
    settings = load_settings()
    assert settings.broker_url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert settings.heartbeat_s < settings.heartbeat_timeout_s < settings.lease_s
    assert settings.max_deaths == 3


def test_the_environment_wins_over_values_and_values_over_the_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = profile(tmp_path, 'max_deaths = 5\nlease_s = 20\nkey_prefix = "file:"\n')
    monkeypatch.setenv("ORCHESTRATOR_MAX_DEATHS", "7")
    settings = load_settings(path, max_deaths=6, lease_s=30)
    assert (settings.max_deaths, settings.lease_s, settings.key_prefix) == (7, 30, "file:")


def test_the_environment_may_name_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(profile(tmp_path, "max_deaths = 9\n")))
    assert load_settings().max_deaths == 9


def test_every_profile_we_ship_is_valid() -> None:
    for path in PROFILES:
        assert isinstance(load_settings(path), Settings), path


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_deaths", 0, "greater than or equal to 1"),
        ("max_deaths", "many", "valid integer"),
        ("heartbeat_s", -1, "greater than 0"),
        ("lease_s", float("nan"), "Input should be"),
        ("lease_s", 1e12, "less than or equal to"),
        ("outcome_ttl_s", "soon", "valid number"),
        ("redact", 5, "valid tuple"),
        ("key_prefix", 5, "valid string"),
    ],
)
def test_a_bad_value_names_the_setting_the_value_and_what_is_allowed(name: str, value: object, allowed: str) -> None:
    text = refusal(**{name: value})
    assert f"{name}={value!r}" in text
    assert allowed in text


def test_a_bad_value_in_the_environment_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_MAX_DEATHS", "some")
    assert "max_deaths='some'" in refusal()


def test_a_list_in_the_environment_is_json_or_has_commas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_REDACT", '["iban", "pin"]')
    assert load_settings().redact == ("iban", "pin")
    monkeypatch.setenv("ORCHESTRATOR_REDACT", "iban,pin")
    assert load_settings().redact == ("iban", "pin")


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as refused:
        load_settings(max_deaths=0, lease_s=0)
    assert len(refused.value.problems) == 2


def test_an_unknown_setting_is_refused_and_the_known_ones_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"max_deahts: no such setting; allowed: .*max_deaths"):
        load_settings(profile(tmp_path, "max_deahts = 3\n"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"heartbeat_s": 1, "heartbeat_timeout_s": 1}, "heartbeat_s=1, heartbeat_timeout_s=1, lease_s=10"),
        ({"lease_s": 0.6}, "heartbeat_s < heartbeat_timeout_s < lease_s"),
        ({"dead_letter_auto_replays": 5, "dead_letter_first_replay_s": 5400}, "dead_letter_ttl_s above 86400"),
        (
            {"dead_letter_auto_replays": 1, "dead_letter_first_replay_s": 9, "dead_letter_ttl_s": 9},
            "dead_letter_ttl_s above 9,",
        ),
        ({"sweep_interval_s": 3, "sweep_stale_s": 3}, "sweep_interval_s < sweep_stale_s"),
    ],
)
def test_times_that_do_not_fit_together_are_refused(values: dict[str, float], said: str) -> None:
    assert said in refusal(**values)


def test_where_values_come_from_that_do_not_fit_together_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HEARTBEAT_S", "5")
    path = profile(tmp_path, "heartbeat_timeout_s = 2\n")
    with pytest.raises(InvalidSettings) as refused:
        load_settings(path)
    (problem,) = refused.value.problems
    assert problem == (
        "heartbeat_s=5, heartbeat_timeout_s=2, lease_s=10; allowed: heartbeat_s < heartbeat_timeout_s < lease_s "
        f"(heartbeat_s from ORCHESTRATOR_HEARTBEAT_S, heartbeat_timeout_s from profile {path}, "
        "lease_s from the default)"
    )


@pytest.mark.parametrize("values", [{"lease_s": 0.6}, {"broker_url": "x"}, {"mailboxes": {"a": {"limit": 0}}}])
def test_a_refusal_is_in_words_of_this_library_only(values: dict[str, Any]) -> None:
    assert "Value error" not in refusal(**values)


def test_letters_that_are_not_retried_may_expire_before_their_first_retry() -> None:
    load_settings(dead_letter_first_replay_s=9, dead_letter_ttl_s=9)
    load_settings(dead_letter_auto_replays=5, dead_letter_first_replay_s=5399)


def test_a_profile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"missing.toml: No such file"):
        load_settings(tmp_path / "missing.toml")


@pytest.mark.parametrize("content", [b"max_deaths = = 3", b"\xff\xfe", b"[["])
def test_a_profile_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidSettings, match=r"bad.toml: not TOML"):
        load_settings(path)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{PASSWORD}@host:6379/0",
        f"amqp://user:{PASSWORD}@host//",
        f"redis:{PASSWORD}@host",
        f"redis://:{PASSWORD}@host:notaport/0",
        f"redis://:{PASSWORD}@host:99999/0",
        f"redis://:{PASSWORD}@host/zero",
        "",
    ],
)
def test_a_bad_broker_url_is_refused_and_its_password_is_not_shown(url: str) -> None:
    text = refusal(broker_url=url)
    assert "broker_url" in text
    assert "allowed" in text
    assert PASSWORD not in text


def test_a_bad_broker_url_is_shown_without_its_password() -> None:
    assert "http://user:**@host:6379/0" in refusal(broker_url=f"http://user:{PASSWORD}@host:6379/0")


@pytest.mark.parametrize("value", [5, ["redis://host"], None])
def test_a_broker_url_that_is_no_text_is_refused(value: object) -> None:
    assert "broker_url" in refusal(broker_url=value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://user:pass%40word@host:6380/15",
        "rediss://host:6380/0?ssl_cert_reqs=required",
        "redis://[::1]:6379/0",
        "sentinel://:pw@a:26379;sentinel://b:26379/0",
        "redis:///run/redis.sock/3",
    ],
)
def test_the_usual_broker_urls_are_taken(url: str) -> None:
    assert load_settings(broker_url=url).broker_url.get_secret_value() == url


@pytest.mark.parametrize("show", [str, repr, lambda s: s.model_dump_json()])
def test_settings_can_be_shown_without_the_password(show: object) -> None:
    assert callable(show)
    assert PASSWORD not in show(load_settings(broker_url=f"redis://:{PASSWORD}@host/0"))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().max_deaths = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", [n for n, f in Settings.model_fields.items() if f.annotation in (int, float)])
@pytest.mark.parametrize("value", [True, False])
def test_true_is_no_number(name: str, value: bool) -> None:
    """Regression: letters were removed after one second."""
    assert f"{name}={value}: allowed: a number" in refusal(**{name: value})


@pytest.mark.parametrize("table", ["timeouts", "deadlines"])
def test_true_is_no_number_in_a_table(tmp_path: Path, table: str) -> None:
    with pytest.raises(InvalidSettings, match=rf"{table}.billing=True: allowed: a number"):
        load_settings(profile(tmp_path, f"[{table}]\nbilling = true\n"))


@pytest.mark.parametrize("variable", ["ORCHESTRATOR_LETTERS", "ORCHESTRATOR_VERBOSE"])
def test_a_variable_that_resembles_none_gets_the_list(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Regression: the prefix made any variable similar to another."""
    monkeypatch.setenv(variable, "1")
    with pytest.raises(InvalidSettings, match=f"{variable}: no such setting; allowed: ORCHESTRATOR_APP_VERSION, "):
        load_settings()


def test_a_misspelt_variable_is_refused_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_HEARBEAT_S", "1")
    with pytest.raises(InvalidSettings, match=r"ORCHESTRATOR_HEARBEAT_S: no such setting; .* ORCHESTRATOR_HEARTBEAT_S"):
        load_settings()
