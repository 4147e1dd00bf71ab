"""``docs/dead-letters.md``: every reason is in its table, and its examples run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import Canary
from orchestrator.core.deliveries.outcome import Reason
from tests.support.letters_under_test import LettersInMemory

PAGE = (Path(__file__).parents[3] / "docs" / "dead-letters.md").read_text(encoding="utf-8")


def test_the_table_has_each_reason_and_no_other() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(named) == sorted(reason.value for reason in Reason)


def test_the_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    letter_log = LettersInMemory((), None)
    names: dict[str, Any] = {"orchestrator": SimpleNamespace(dead_letters=letter_log.log)}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 4
    for block in blocks:
        # What is sent again is gone, so each block has a letter of its own.
        names["letter_id"] = letter_log.add_letter(
            error="TimeoutError", text="the gateway", metadata={"tenant": "acme"}
        )
        exec(compile(block, "docs/dead-letters.md", "exec"), names)
    assert '"cents": 500' in capsys.readouterr().out
    assert names["Canary"] is Canary
    assert names["done"].stopped == ""
