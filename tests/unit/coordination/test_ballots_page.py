"""The examples of docs/ballots.md really run, in eager mode."""

from __future__ import annotations

from typing import Any

import pytest

import orchestrator as library
from orchestrator.core.coordination.ballot import OPEN_AT
from orchestrator.core.coordination.ballot_rules import Majority, Quorum, Unanimous, Weighted
from tests.support.coordination_under_test import make
from tests.support.worker_process import ROOT

PAGE = (ROOT / "docs" / "ballots.md").read_text(encoding="utf-8")
BLOCKS = [part.split("```")[0] for part in PAGE.split("```python\n")[1:]]


def test_the_page_begins_with_what_a_failover_can_do() -> None:
    first = PAGE.split("\n## ")[0]
    assert all(text in first for text in ("failover", "min-replicas-to-write", "fencing token"))


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    orchestrator = make("redis://127.0.0.1:1/0", eager=True)
    started: list[int] = []
    names: dict[str, Any] = {name: getattr(library, name) for name in library.__all__}
    names |= {"orchestrator": orchestrator, "start": started.append}
    declaration, *examples = BLOCKS
    exec(declaration, names)
    node = names["Node"]
    orchestrator.host(*[type(f"Node{n}", (node,), {"name": f"node-{n}"}) for n in (1, 2, 3)])
    for example in examples:
        exec(example, names)
    assert started == [3, 3, 3, 3, 9, 9]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("True 2 of 3 for it")
    # The negotiation that ends, the one that is left to the chief, and the workflow.
    assert printed[-3:] == ["9", "5", "True"]
    asked = [state for state in orchestrator.coordination.ballots(20) if state.of == 2]
    assert [state.state for state in asked] == [*["rejected"] * 2, "accepted", *["rejected"] * 3]
    orchestrator.app.close()


def test_all_rules_and_reasons_are_on_it() -> None:
    for rule in (Majority, Unanimous, Quorum, Weighted):
        assert f"`{rule.__name__}(" in PAGE
    for reason in (*OPEN_AT.values(), "full", "open", "expired", "no vote", "dead: …"):
        assert f"`{reason}`" in PAGE
