"""``calls``: a table for people, a document for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import Orchestrator
from orchestrator.cli.calls import calls
from tests.apps import calls_app
from tests.support.command_line import invoke


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    made = calls_app.make("redis://127.0.0.1:1/0", eager=True)
    yield made
    made.app.close()


def document(orchestrator: Orchestrator) -> Any:
    result = invoke(orchestrator.app, calls, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["calls"]


def test_who_was_never_asked_is_not_listed(orchestrator: Orchestrator) -> None:
    assert document(orchestrator) == []
    assert "Asked mailboxes: 0" in invoke(orchestrator.app, calls).stdout


def test_what_became_of_asks_is_shown(orchestrator: Orchestrator) -> None:
    orchestrator.ask_all(["billing"], calls_app.Quote(number=6), timeout_s=5)
    orchestrator.ask_all(["billing"], calls_app.Quote(number=8), timeout_s=5)
    (known,) = document(orchestrator)
    assert (known["mailbox"], known["asked"], known["handled"], known["open"]) == ("billing", 2, 2, 0)
    table = invoke(orchestrator.app, calls).stdout
    assert "Asked mailboxes: 1" in table
    assert "billing" in table
