"""The deployment profiles in ``config/``."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest
from tornado.options import options

from orchestrator.core.settings import Settings, load_settings
from orchestrator.embedded import EmbeddedServer
from tests.support.worker_process import ROOT

CONFIG = ROOT / "config"
PROFILES = sorted(CONFIG.glob("*.toml"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ORCHESTRATOR_{name.upper()}", raising=False)


def test_there_are_profiles() -> None:
    assert [profile.stem for profile in PROFILES] == ["default", "development", "production"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.stem)
def test_every_profile_loads(profile: Path) -> None:
    named = tomllib.loads(profile.read_text())
    settings = load_settings(profile)
    assert settings.model_fields_set == set(named)


def test_the_default_profile_holds_every_setting_with_its_default() -> None:
    profile = CONFIG / "default.toml"
    assert load_settings(profile) == Settings()
    # The URL is only a comment: to set it would have the demo use it.
    assert set(tomllib.loads(profile.read_text())) == set(Settings.model_fields) - {"broker_url"}
    assert Settings().broker_url.get_secret_value() in profile.read_text()


def test_flower_knows_every_setting_and_stays_on_this_machine() -> None:
    import flower.options  # noqa: F401  (defines them)

    settings = {name: value for name, value in runpy.run_path(str(CONFIG / "flower.py")).items() if name[0] != "_"}
    assert set(settings) <= {name.replace("-", "_") for name in options}
    assert settings["address"] == "127.0.0.1"


def test_redis_starts_with_the_production_configuration() -> None:
    lines = [line for line in (CONFIG / "redis.conf").read_text().splitlines() if line and line[0] != "#"]
    directives = dict(line.split(" ", 1) for line in lines)
    assert directives["bind"] == "127.0.0.1 -::1"
    # What is set by the embedded server itself.
    config = {name: value for name, value in directives.items() if name not in ("bind", "port", "save")}
    with EmbeddedServer(config={**config, "save": ""}) as server:
        assert server.is_running
