"""Tables fit the terminal and name what they leave out; colour is for terminals only."""

from __future__ import annotations

import os
import pty
import sys
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.output.layout import GAP, fit, width_of, wrap
from orchestrator.cli.output.tables import Console, Tone, Toned, console, print_fields, print_table

COLUMNS = ("id", "state", "held", "queues", "error")
ROWS = [
    ("1700000000000-0", Toned("up", Tone.GOOD), 12, "billing, shipping", "ValueError: no such order at all, sorry"),
    ("1700000000001-0", Toned("down", Tone.BAD), 3, "billing", ""),
]


def drawn(capsys: pytest.CaptureFixture[str], width: int | None, *, colour: bool = False, **options: Any) -> str:
    print_table(Console(width, colour), "Things", COLUMNS, ROWS, **options)
    return capsys.readouterr().out


def test_without_a_terminal_lines_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    shown = drawn(capsys, None, fold=("error",), drop=("queues",))
    assert "1700000000000-0  up       12  billing, shipping  ValueError: no such order at all, sorry\n" in shown
    assert "\x1b" not in shown


def test_long_columns_run_over_several_lines_before_any_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    shown = drawn(capsys, 70, fold=("error",), drop=("queues",))
    assert max(len(line) for line in shown.splitlines()) <= 70
    assert "billing, shipping" in shown
    assert "No room" not in shown


def test_a_column_that_is_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shown = drawn(capsys, 50, fold=("error",), drop=("queues", "error"))
    assert max(len(line) for line in shown.splitlines()[:-2]) <= 50
    assert "billing" not in shown
    assert "ValueError" in shown
    assert shown.splitlines()[-2] == "No room for: queues (a wider terminal or --json shows them)"


@pytest.mark.parametrize("width", [20, 12])
def test_what_may_not_be_left_out_is_shown_however_narrow(capsys: pytest.CaptureFixture[str], width: int) -> None:
    shown = drawn(capsys, width, fold=("error",), drop=("queues", "error"))
    held = "".join(line.split("  ")[0] for line in shown.splitlines()[1:-2])
    assert "1700000000000-0" in held.replace(" ", "").replace("─", "")


def test_wide_characters_take_two_cells() -> None:
    assert width_of("日本") == 4
    assert width_of("é") == 1
    assert wrap("日本語 text", 4) == ["日本", "語", "text"]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(10, 200), st.data())
def test_columns_fit_or_are_as_narrow_as_they_may_be(natural: list[int], width: int, data: st.DataObject) -> None:
    places = st.sets(st.integers(0, len(natural) - 1))
    folds, drops = data.draw(places), sorted(data.draw(places))[: len(natural) - 1]
    fitted = fit(natural, folds, drops, width)
    assert sorted([at for at, _ in fitted.shown] + list(fitted.left_out)) == list(range(len(natural)))
    assert list(fitted.left_out) == drops[: len(fitted.left_out)]
    assert all(size <= natural[at] for at, size in fitted.shown)
    total = sum(size for _, size in fitted.shown) + GAP * (len(fitted.shown) - 1)
    assert total <= width or (len(fitted.left_out) == len(drops) and all(size <= 4 for _, size in fitted.shown))


@given(st.text(alphabet="ab cd日", max_size=80), st.integers(2, 20))
def test_no_wrapped_line_is_too_wide_and_no_word_is_lost(text: str, width: int) -> None:
    wrapped = wrap(text, width)
    assert all(width_of(line) <= width for line in wrapped)
    assert "".join(wrapped).replace(" ", "") == text.replace(" ", "")


def test_states_have_colours_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = drawn(capsys, 120, colour=True)
    assert "\x1b[32mup\x1b[0m" in shown
    assert "\x1b[31mdown\x1b[0m" in shown
    plain = drawn(capsys, 120)
    assert click.unstyle(shown) == plain


def test_fields_run_over_several_lines_beside_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields(Console(40, colour=False), "One", {"id": "o1", "error": "no such order at all, so it ended", "no": ""})
    assert capsys.readouterr().out.splitlines() == [
        "One", "  id     o1", "  error  no such order at all, so it", "         ended", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "no_color", "colour"),
    [({}, False, True), ({"NO_COLOR": "1"}, False, False), ({"NO_COLOR": ""}, False, True), ({}, True, False),
     ({"TERM": "dumb"}, False, False)],
)  # fmt: skip
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], no_color: bool, colour: bool
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    context: Any = SimpleNamespace(obj=SimpleNamespace(no_color=no_color))
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        out = console(context)
    assert out.colour is colour
    assert out.width


def test_there_is_no_colour_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    context: Any = SimpleNamespace(obj=SimpleNamespace(no_color=False))
    assert console(context).colour is False
