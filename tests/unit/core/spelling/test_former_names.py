"""Former names of settings, options and attributes: whoever still writes one is shown the present one."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from orchestrator import Agent, Message, Orchestrator, handles, load_settings
from orchestrator.core.errors import InvalidDeclaration, InvalidSettings
from orchestrator.core.settings import Settings
from orchestrator.core.spelling.former_names import FORMER_NAMES
from orchestrator.transport.options import Options
from orchestrator.transport.transport import TRANSPORT

SETTINGS = {old: new for old, new in FORMER_NAMES.items() if new in Settings.model_fields}
OPTIONS = {old: new for old, new in FORMER_NAMES.items() if new in Options.names()}


class Charge(Message):
    cents: int = 1


def test_each_name_is_still_one() -> None:
    assert FORMER_NAMES.keys() == SETTINGS.keys() | OPTIONS.keys()


@pytest.mark.parametrize(("old", "new"), SETTINGS.items())
def test_a_former_setting_is_refused_with_its_present_name(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    for name in [name for name in os.environ if name.startswith("ORCHESTRATOR_")]:
        monkeypatch.delenv(name)
    former: dict[str, Any] = {old: 1}
    with pytest.raises(InvalidSettings, match=rf"{old}: no such setting; .*did you mean '{new}'\?"):
        load_settings(**former)
    monkeypatch.setenv(f"ORCHESTRATOR_{old.upper()}", "1")
    with pytest.raises(
        InvalidSettings,
        match=rf"ORCHESTRATOR_{old.upper()}: no such setting; did you mean ORCHESTRATOR_{new.upper()}\?",
    ):
        load_settings()


@pytest.mark.parametrize(("old", "new"), OPTIONS.items())
def test_a_former_option_of_the_transport_is_warned_of(caplog: pytest.LogCaptureFixture, old: str, new: str) -> None:
    with caplog.at_level(logging.WARNING):
        assert Connection("redis://h/0", transport=TRANSPORT, transport_options={old: 1}).transport
    assert (
        f"broker_transport_options: {old!r} is not an option, and has no effect; did you mean {new!r}?" in caplog.text
    )


def test_a_former_attribute_of_an_agent_is_refused_with_its_present_name() -> None:
    orchestrator = Orchestrator(Celery("shop", broker="redis://h/0", set_as_current=False), load_settings())
    attributes: dict[str, Any] = {"name": "billing", "charge": handles(Charge)(lambda self, message: None)}
    for old, new in FORMER_NAMES.items():
        if new == "dead_letter_expired":
            with pytest.raises(InvalidDeclaration, match=rf"{old}=True: no such setting; did you mean '{new}'\?"):
                orchestrator.host(type("Billing", (Agent,), {**attributes, old: True}))
