"""What the demo refuses, and how it shows where it is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from orchestrator.migration import installed_packages_root
from workers.__main__ import demo
from workers.demo import NothingToAudit, find_sources
from workers.progress import Bar, Lines, display


def test_the_installed_packages_are_the_default() -> None:
    root, files = find_sources(None)
    assert root == installed_packages_root()
    assert len(files) > 1000


def test_a_single_file_will_do(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.touch()
    assert find_sources(path) == (path, [path])


def test_a_place_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingToAudit, match="no Python file"):
        find_sources(tmp_path)
    with pytest.raises(NothingToAudit, match="No such file"):
        find_sources(tmp_path / "nowhere")


def test_a_refusal_is_one_line_at_the_command_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, [str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path}: no Python file (*.py) there\n"


def test_at_least_two_auditors(tmp_path: Path) -> None:
    assert CliRunner().invoke(demo, [str(tmp_path), "--auditors", "1"]).exit_code == 2


def test_without_a_terminal_a_line_for_each_quarter() -> None:
    console = Console(file=io.StringIO())
    with display(console, 8) as shown:
        assert isinstance(shown, Lines)
        for done in (0, 1, 2, 3, 3, 7, 8, 8):
            shown.show(done)
    assert console.file.getvalue().splitlines() == ["2 of 8 done", "7 of 8 done", "8 of 8 done"]  # type: ignore[attr-defined]


def test_at_a_terminal_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False)
    with display(console, 8) as shown:
        assert isinstance(shown, Bar)
        shown.show(8)
        shown.say("an event [not markup]")
    assert "an event [not markup]" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "8/8" in console.file.getvalue()  # type: ignore[attr-defined]
