"""Tests that talk with a process read what it writes line by line, however many lines come at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.candidate_process import CandidateProcess
from tests.support.process_lines import ProcessLines

#: In one call, as a reader finds them that is late.
_TWO = "import os, sys; os.write(1, b'campaigns\\n7\\n'); sys.stdin.read()"

_POPEN = subprocess.Popen


def test_lines_that_come_together_are_read_one_by_one() -> None:
    with subprocess.Popen([sys.executable, "-c", _TWO], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        lines = ProcessLines(process.stdout, 20)
        assert [lines.next(), lines.next()] == ["campaigns", "7"]
        process.kill()
        with pytest.raises(AssertionError, match="ended after b''"):
            lines.next()


def test_a_candidate_that_leads_at_once_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: its term came with the line before it, where no selector saw it."""
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: _POPEN([sys.executable, "-c", _TWO], **options))
    with CandidateProcess("", "") as candidate:
        assert candidate.term() == 7
