"""The options of a chaos run."""

from __future__ import annotations

import pytest

from chaos.options import COORDINATION_KINDS, KINDS, parse
from chaos.strikes import plan


def test_a_run_has_coordination_by_default() -> None:
    options = parse(["--seed", "1"])
    assert options.coordination
    assert set(options.kills) == KINDS.keys() - {"freeze", "supervisor"}


@pytest.mark.parametrize("arguments", [["--without", "coordination"], ["--chords", "10"]])
def test_a_run_without_coordination_has_no_kills_of_contenders(arguments: list[str]) -> None:
    options = parse(arguments)
    assert not options.coordination
    assert not set(options.kills) & set(COORDINATION_KINDS)


def test_a_kill_that_needs_coordination_is_refused_without(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--without", "coordination", "--kills", "hard,leader"])
    assert "--kills leader: allowed: with coordination only" in capsys.readouterr().err


def test_a_contender_is_frozen_for_longer_than_its_lease() -> None:
    pauses_s = [strike.pause_s for strike in plan(1, ["contender-freeze", "contender-stop"], 60, 5)]
    assert max(pauses_s) > 11
    assert min(pauses_s) <= 3
