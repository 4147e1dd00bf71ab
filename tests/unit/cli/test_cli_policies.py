"""`policies`: what applies, who says so, and what cannot be had."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.cli.policies import policies
from orchestrator.worker.startup_warnings import governed_tasks, startup_warnings
from tests.apps import agents_app
from tests.support.command_line import invoke


def ask(*arguments: str, **settings: Any) -> Any:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True, **settings)
    return invoke(orchestrator.app, policies, *arguments)


def test_each_value_is_shown_with_where_it_comes_from() -> None:
    document = json.loads(ask("worker", "--json", timeouts={"*.Add": 7}, timeout_factor=2).stdout)
    shown = {entry["message"]: entry["options"] for entry in document["policies"]}
    assert shown["Add"]["timeout_s"] == {"value": 7, "source": "settings"}
    assert shown["Hurried"]["timeout_s"] == {"value": 30, "source": "handler"}
    assert shown["Add"]["retry"]["source"] == "agent"
    assert shown["Hopeless"]["retry"]["source"] == "handler"
    assert shown["Add"]["on_error"] == {"value": "dead_letter", "source": "default"}
    assert shown["Add"]["dead_letter_expired"] == {"value": False, "source": "default"}
    assert shown["Perishable"]["dead_letter_expired"] == {"value": True, "source": "handler"}
    assert document["timeout_factor"] == 2


def test_a_default_and_a_class_are_shown_with_who_has_them() -> None:
    settings: dict[str, Any] = {
        "default_timeout_s": 9,
        "timeout_classes": {"long": 60},
        "timeouts": {"*.Flaky": "long"},
    }
    document = json.loads(ask("worker", "--json", **settings).stdout)
    shown = {entry["message"]: entry["options"]["timeout_s"] for entry in document["policies"]}
    assert shown["Add"] == {"value": 9, "source": "settings"}
    assert shown["Hurried"] == {"value": 30, "source": "handler"}
    assert shown["Flaky"] == {"value": 60, "source": "settings", "class": "long"}
    assert "60.0 (long)" in ask("worker", **settings).stdout


def test_the_setting_is_what_applies_where_nobody_says_otherwise() -> None:
    document = json.loads(ask("worker", "--json", dead_letter_expired=True).stdout)
    shown = {entry["message"]: entry["options"]["dead_letter_expired"] for entry in document["policies"]}
    assert shown["Add"] == {"value": True, "source": "settings"}
    assert shown["Perishable"] == {"value": True, "source": "handler"}


def test_the_table_says_the_same_and_what_cannot_be_had() -> None:
    text = ask(timeouts={"worker.Add": 7}, deadlines={"worker.Add": 10}).stdout
    assert "2 retries, 0.01 s times 2 each, at most 0.02 s, jitter 0.5" in text
    assert "5 retries, 0.01 s times 2 each, at most 0.02 s, jitter 0.5, never on LookupError" in text
    assert "worker.Add: 3 attempts of up to 7 s with 0.03 s of pauses take up to 21.03 s; deadline_s=10 cuts" in text
    assert "plain.early: not supervised, acks_late=False" in text
    assert "plain.own: not supervised, its Request class is tests.apps.agents_app:OwnRequest" in text


def test_plain_tasks_that_the_settings_speak_of_are_among_them() -> None:
    settings: dict[str, Any] = {"timeouts": {"plain.a*": 7, "*.Down": 1, "*.early": 1}, "deadlines": {"plain.add": 10}}
    document = json.loads(ask("--json", **settings).stdout)
    shown = {entry["message"]: entry["options"] for entry in document["policies"] if not entry["agent"]}
    assert set(shown) == {"plain.add", "plain.again"}
    assert shown["plain.add"]["timeout_s"] == {"value": 7, "source": "settings"}
    assert any(line.startswith("plain.add: 4 attempts of up to 7 s") for line in document["remarks"])
    assert "plain.add" in ask(**settings).stdout
    document = json.loads(ask("worker", "--json", **settings).stdout)
    assert all(entry["agent"] for entry in document["policies"])


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_pool_that_cannot_interrupt_or_kill_plain_tasks_says_so(pool: str) -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True, timeouts={"plain.lasts": 7})
    addresses = governed_tasks(orchestrator.app, orchestrator.settings.time_limits)
    assert any(
        line.startswith(f"plain.lasts: a {pool} pool") for line in startup_warnings(orchestrator.app, addresses, pool)
    )


@pytest.mark.parametrize("name", ["nobody", "Worker"])
def test_an_unknown_agent_is_said_to_be_unknown(name: str) -> None:
    result = ask(name)
    assert result.exit_code == 2
    assert f"unknown agent '{name}'; known agents: worker" in result.stderr
