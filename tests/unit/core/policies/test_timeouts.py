"""Timeouts: the default, classes, and which level has the last word."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import Agent, InvalidDeclaration, InvalidPolicy, InvalidSettings, Message, handles, load_settings
from orchestrator.agents.declaration import inspect_agent
from orchestrator.core.policies.effective import Policy, impossible, wasteful
from orchestrator.core.policies.timeout_classes import NamedSeconds, seconds_of
from orchestrator.core.policies.timeouts import Timeouts


class Charge(Message):
    cents: int


def agent_with(timeout_s: float | str | None = None, of_handler: float | str | None = None) -> type[Agent]:
    def charge(self: Any, message: Charge) -> None: ...

    attributes = {"name": "billing", "timeout_s": timeout_s, "charge": handles(Charge, timeout_s=of_handler)(charge)}
    return type("Billing", (Agent,), attributes)


#: From the farthest level to the nearest; the settings' two before the code's are those that only fill gaps.
LEVELS = ("default", "agent", "handler", "settings", "send")


@given(st.dictionaries(st.sampled_from(LEVELS), st.sampled_from([1.0, 2.0, "long", "short"])), st.booleans())
def test_the_nearest_level_that_has_a_timeout_has_the_last_word(said: dict[str, float | str], by_pattern: bool) -> None:
    classes = {"long": 30.0, "short": 3.0}
    # The settings' default and a send take seconds only.
    given_s = {level: seconds_of(value, classes) or 0.0 for level, value in said.items()}
    settings = load_settings(
        default_timeout_s=float(given_s.get("default", 0)),
        timeout_classes=classes,
        timeouts={"*.Charge" if by_pattern else "billing.Charge": said["settings"]} if "settings" in said else {},
    )
    timeouts = settings.time_limits
    spec = inspect_agent(agent_with(said.get("agent"), said.get("handler")), timeouts)
    levels = ("agent", spec.policy), ("handler", spec.handlers["Charge"].policy)
    effective = timeouts.merged("billing.Charge", "billing", *levels)
    if "send" in said:
        effective = effective.over("send", Policy(timeout_s=given_s["send"]))
    nearest = next((level for level in reversed(LEVELS) if level in said), None)
    assert effective.timeout_s == (given_s[nearest] if nearest else None)
    source = "settings" if nearest == "default" else nearest
    assert effective.sources.get("timeout_s") == source
    assert effective.has_default_timeout is (nearest == "default")


def test_a_default_contradicts_no_deadline_and_wastes_nothing() -> None:
    timeouts = Timeouts(default_s=30)
    effective = timeouts.merged("billing.Charge", "billing", ("agent", Policy(deadline_s=5)))
    assert (effective.timeout_s, impossible(effective), wasteful(effective)) == (30, [], [])
    said = effective.over("send", Policy(timeout_s=30))
    assert impossible(said) == [
        "timeout_s=30 (said by send); allowed: at most deadline_s=5 (said by agent), which ends it first"
    ]


def test_errors_name_the_class_that_a_value_comes_from() -> None:
    timeouts = load_settings(timeout_classes={"long": 30}, timeouts={"*.Charge": "long"}).time_limits
    (line,) = impossible(timeouts.merged("billing.Charge", "billing", ("agent", Policy(deadline_s=5))))
    assert line.startswith("timeout_s=30 (long) (said by settings); allowed: at most deadline_s=5 (said by agent)")


@pytest.mark.parametrize(("agent", "handler"), [("lang", None), (None, "lang")])
def test_an_unknown_class_in_a_declaration_is_refused_with_the_nearest(agent: str | None, handler: str | None) -> None:
    with pytest.raises(InvalidDeclaration, match=r"timeout_s='lang'.*\(critical, long\); did you mean 'long'\?"):
        inspect_agent(agent_with(agent, handler), Timeouts(classes={"long": 30, "critical": 5}))


def test_a_class_where_there_is_none_is_refused_with_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCHESTRATOR_CONFIG", raising=False)
    none = r"timeout_s='long'.*timeout_classes, which has none; "
    with pytest.raises(InvalidDeclaration, match=none + "no profile was read, for ORCHESTRATOR_CONFIG is not set"):
        inspect_agent(agent_with("long"))
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "/etc/o.toml")
    with pytest.raises(InvalidDeclaration, match=none + r"the profile read is /etc/o\.toml"):
        inspect_agent(agent_with("long"))


def test_a_class_in_a_send_is_refused_with_where_it_belongs() -> None:
    with pytest.raises(InvalidPolicy, match=r"timeout_s='long'.*only in declarations and settings"):
        Policy(timeout_s="long")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"timeouts": {"*.fetch": "lang"}}, r"timeouts\['\*\.fetch'\]='lang'; allowed: .*did you mean 'long'\?"),
        ({"timeouts": {"*": 0}}, r"timeouts.*=0: Input should be greater than 0"),
        ({"timeouts": {"*": math.nan}}, r"timeouts.*=nan"),
        ({"timeouts": {"*": True}}, r"timeouts.*=True: allowed: a number"),
        ({"timeouts": {"*": "0"}}, r"timeouts.*='0': Input should be greater than 0"),
        ({"timeouts": {"a.*": "long"}, "deadlines": {"a.*": 5}}, r"timeouts\['a\.\*'\]=30 \(long\); allowed: at most"),
        ({"timeout_classes": {"long": 0}}, r"timeout_classes\.long=0"),
        ({"timeout_classes": {"long": math.nan}}, r"timeout_classes\.long=nan"),
        ({"timeout_classes": {"5": 3}}, r"timeout_classes=.*'5' is no name"),
        ({"default_timeout_s": -1}, r"default_timeout_s=-1"),
        ({"default_timeout_s": math.nan}, r"default_timeout_s=nan"),
        ({"default_timeout_s": True}, r"default_timeout_s=True"),
        ({"default_timeout_s": "long"}, r"default_timeout_s='long'"),
    ],
)
def test_bad_settings_are_refused_by_name(said: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidSettings, match=error):
        load_settings(**{"timeout_classes": {"long": 30}, **said})


def test_classes_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_TIMEOUT_CLASSES", '{"long": 30}')
    monkeypatch.setenv("ORCHESTRATOR_TIMEOUTS", '{"*.fetch": "long", "*.other": "7"}')
    policy = load_settings().time_limits.policy
    assert (policy("web.fetch").timeout_s, policy("web.other").timeout_s) == (30, 7)


def test_a_down_message_has_the_settings_timeout_and_the_factor() -> None:
    spec = inspect_agent(agent_with(), Timeouts({"billing.on_down": 7}, factor=2))
    assert spec.untracked("Down").timeout_s == 14
    assert inspect_agent(agent_with(), Timeouts(default_s=5)).untracked("Down").timeout_s == 5


def test_names_of_tasks_do_not_fill_the_memory() -> None:
    timeouts = Timeouts({"a*": 1})
    for number in range(20_001):
        timeouts.merged(f"a{number}")
    assert len(timeouts._known) <= 10_000
    assert len(timeouts._plain) <= 10_000
    assert timeouts.policy("a7").timeout_s == 1


def test_seconds_of_a_class_can_be_copied() -> None:
    copied = copy.deepcopy(NamedSeconds(30, "long"))
    assert copied == 30.0
    assert copied.name == "long"
