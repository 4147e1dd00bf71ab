"""Procfiles of others: what a shell would make of their lines, as far as that needs no shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.supervisor.reading import read as reading
from orchestrator.supervisor.reading.definition import Command, Definition, InvalidDefinition, ProbeKind

ENVIRONMENT = {"PORT": "5000", "OPTS": "-c 4  -l INFO", "SECRET": "pa$$PORT\"'\\ 1"}


@pytest.fixture
def read(tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)

    def reads(text: str) -> Definition:
        (tmp_path / "Procfile").write_text(text, encoding="utf-8")
        return reading.read(tmp_path / "Procfile", Path("state"))

    return reads


def command(read, line: str) -> Command:
    made: Command = read(f"x: {line}\n").commands["x"]
    return made


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('bash -c "cd app; a && b | c > d"', ("bash", "-c", "cd app; a && b | c > d")),
        ("bash -c 'for i in 1 2; do echo $i; done'", ("bash", "-c", "for i in 1 2; do echo $i; done")),
        ("sh -c 'echo `date` $(date)'", ("sh", "-c", "echo `date` $(date)")),
        ("gunicorn -b 0.0.0.0:$PORT shop  # the web", ("gunicorn", "-b", "0.0.0.0:5000", "shop")),
        ("a http://x/#b", ("a", "http://x/#b")),
        ("a $OPTS b", ("a", "-c", "4", "-l", "INFO", "b")),
        ('a "$OPTS" --o=$OPTS', ("a", "-c 4  -l INFO", "--o=-c 4  -l INFO")),
        ('a "$SECRET" --password=$SECRET', ("a", ENVIRONMENT["SECRET"], f"--password={ENVIRONMENT['SECRET']}")),
        ('a \\$PORT "\\$PORT" \\; "it\'s \\"x\\""', ("a", "$PORT", "$PORT", ";", 'it\'s "x"')),
        ("a $UNSET ${UNSET:-b c} '${PORT}'", ("a", "b", "c", "${PORT}")),
    ],
)
def test_words_as_a_shell_makes_them(read, line, words):
    assert command(read, line).arguments == words


def test_assignments_are_not_split_or_replaced_again(read):
    assert command(read, "A='$PORT' B=\"$OPTS\" exec a").environment == {"A": "$PORT", "B": ENVIRONMENT["OPTS"]}


@pytest.mark.parametrize("line", ["a; b", "a && b", "a > b", "a `b`", 'a "$(b)"', 'a "`b`"', "a \\\\; b", "a 'b"])
def test_what_needs_a_shell_is_refused(read, line):
    with pytest.raises(InvalidDefinition) as refused:
        command(read, line)

    assert len(refused.value.problems) == 1


QUOTES = "each ' and each \" closed; one that stands for itself is written \\' or \\\""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("web: python -c 'print(1)", f"line 3: web=python -c 'print(1); a quote is not closed; allowed: {QUOTES}"),
        ('web: echo "a', f'line 3: web=echo "a; a quote is not closed; allowed: {QUOTES}'),
        ("web: echo it's", f"line 3: web=echo it's; a quote is not closed; allowed: {QUOTES}"),
        ("web: echo \\", "line 3: web=echo \\; nothing follows the last backslash; allowed: \\\\ for a backslash"),
        ("web: exec A=1", "line 3: web=exec A=1; no program; allowed: NAME: PROGRAM ARGUMENTS"),
        ("web:", "line 3=web:; allowed: NAME: PROGRAM ARGUMENTS"),
        ("a | b", "line 3=a | b; allowed: NAME: PROGRAM ARGUMENTS"),
    ],
)
def test_a_line_that_cannot_be_run_is_named_with_what_is_allowed(read, line, problem):
    with pytest.raises(InvalidDefinition) as refused:
        read(f"# comment\nfine: true\n{line}\n")

    assert refused.value.source.endswith("Procfile")
    assert refused.value.problems == (problem,)


def test_lines_of_another_system_with_a_byte_order_mark(read):
    definition = read("\N{ZERO WIDTH NO-BREAK SPACE}web: a\r\n\r\n# no\r\nother: b\r\n")

    assert {path: one.arguments for path, one in definition.commands.items()} == {"web": ("a",), "other": ("b",)}


def test_variables_that_are_not_set_are_warned_of(read):
    definition = read("a: x $UNSET ${UNSET:-1} '$QUOTED' $PORT \"$NEITHER\"\n")

    assert [warning.partition(",")[0] for warning in definition.warnings] == [
        "a: $UNSET is not set", "a: $NEITHER is not set",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "app", "ready"),
    [
        ("celery -A shop worker -c 2", "shop", ProbeKind.HEALTH),
        ("exec /venv/bin/celery --app=shop worker", "shop", ProbeKind.HEALTH),
        ("python3.12 -m celery -Ashop worker", "shop", ProbeKind.HEALTH),
        # Its process id is another one's.
        ("uv run celery --app shop worker", "shop", ProbeKind.NONE),
        ("poetry run python -m celery -A shop worker", "shop", ProbeKind.NONE),
    ],
)
def test_workers_of_celery(read, line, app, ready):
    definition = read(f"x: {line}\n")

    made = definition.commands["x"]
    assert (made.app, made.probe.kind) == (app, ready)
    assert [child.shutdown_s for child in definition.root.children] == [60.0]


@pytest.mark.parametrize("line", ["celery -A shop beat", "celery worker", "python worker.py celery", "worker"])
def test_others(read, line):
    assert command(read, line).app == ""
