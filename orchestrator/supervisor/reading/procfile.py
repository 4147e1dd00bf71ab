"""Reads a Procfile's lines without a shell: quotes, variables, ``NAME=value`` in front and ``exec``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.supervisor.reading.celery_command import worker_in
from orchestrator.supervisor.reading.options import VARIABLE, substituted

_LINE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*):\s*(.+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)

#: What only a shell understands, outside of quotes, and within double quotes.
_OPERATORS = re.compile(r"[;&|<>`\n]|\$\(")
_SUBSTITUTIONS = re.compile(r"(?<!\\)(`|\$\()")

#: A part in single quotes, one in double quotes, an escaped character, a bare part, or a quote that nothing closes.
_PARTS = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^'\"\\]+|.")
_ESCAPE_OR_VARIABLE = re.compile(rf"\\[$`]|{VARIABLE.pattern}")
_COMMENT = re.compile(r"\s#")

_FORM = "NAME: PROGRAM ARGUMENTS"
_OPERATORS_REFUSED = (
    'a shell\'s operator; allowed: one command without operators, or sh -c "…", or an orchestrator.toml instead'
)
_OPEN_QUOTE = (
    "a quote is not closed; allowed: each ' and each \" closed; one that stands for itself is written \\' or \\\""
)
_ESCAPES_NOTHING = "nothing follows the last backslash; allowed: \\\\ for a backslash"


class Line:
    """One line of a Procfile."""

    def __init__(self, number: int, name: str, command: str) -> None:
        #: Where it is, as an error says it.
        self.place = f"line {number}: {name}"
        self.name = name
        self.command = command

    def options(self) -> dict[str, Any]:
        """The options of a child, as a definition has them.

        Raises:
            ValueError: with what is wrong, and what is allowed.
        """
        words = _words(self.command)
        environment = {}
        while words and (words[0] == "exec" or _ASSIGNMENT.fullmatch(words[0])):
            first = words.pop(0)
            if first != "exec":
                environment[first.partition("=")[0]] = _literal(first.partition("=")[2])
        if not words:
            raise ValueError(f"no program; allowed: {_FORM}")
        worker = worker_in(words)
        more: dict[str, Any] = {} if worker is None else {"shutdown_s": 60.0}
        if worker is not None and worker.is_direct:
            more["ready"] = "health"
        command = [_literal(word) for word in words]
        return {"id": self.name, "kind": "process", "command": command, "environment": environment, **more}

    def parts_with_variables(self) -> str:
        """The command without what is in single quotes or escaped: no variable is replaced there."""
        return " ".join(part for part in _PARTS.findall(self.command) if part[0] not in "'\\")


def _lines(text: str) -> Iterator[tuple[int, str, Line | None]]:
    """All lines but blank ones and comments, with number and text; ``None`` for one that is not ``NAME: COMMAND``."""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            found = _LINE.fullmatch(line)
            yield number, line, Line(number, found[1], found[2]) if found else None


def _words(command: str) -> list[str]:
    """The words of a command.

    Raises:
        ValueError: a part needs a shell, a quote is open, or nothing follows a backslash; with what is allowed.
    """
    text = "".join(_expanded(command))
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(_ESCAPES_NOTHING if "escape" in str(error) else _OPEN_QUOTE) from None


def _literal(text: str) -> str:
    """A text in which no variable is replaced any more."""
    return text.replace("$", "$$")


def _expanded(command: str) -> Iterator[str]:
    """The parts of the command with their variables replaced, still in quotes.

    Raises:
        ValueError: a part needs a shell; with what is allowed.
    """
    for part in _PARTS.findall(command):
        if part[0] == '"' and len(part) > 1:
            if _SUBSTITUTIONS.search(part):
                raise ValueError(_OPERATORS_REFUSED)
            yield _ESCAPE_OR_VARIABLE.sub(_in_quotes, part)
        elif part[0] in "'\\\"":
            yield part
        else:
            comment = _COMMENT.search(part)
            bare = part[: comment.start()] if comment else part
            if _OPERATORS.search(bare):
                raise ValueError(_OPERATORS_REFUSED)
            yield VARIABLE.sub(_bare, bare)
            if comment:
                return


def _in_quotes(found: re.Match[str]) -> str:
    if found[0][0] == "\\":
        return found[0][1]
    return substituted(found[0]).replace("\\", "\\\\").replace('"', '\\"')


def _bare(found: re.Match[str]) -> str:
    """A variable's value; if it is all there is between two blanks, it is as many words as it has, as in a shell."""
    value, text = substituted(found[0]), found.string
    stands_alone = text[: found.start()][-1:].strip() == "" and text[found.end() :][:1].strip() == ""
    return " ".join(map(shlex.quote, value.split() if stands_alone else [value]))


def children(
    text: str, refuse: Callable[[str, str, str], None], warn_of_unset: Callable[[str, str], None]
) -> Mapping[str, Any]:
    """The children of a Procfile, as a definition has them.

    ``refuse`` is called with the number and the name of a line that cannot be run, its text and what is allowed;
    ``warn_of_unset`` with the name and the text of each other line, for variables that are not set.
    """
    found = []
    for number, raw, line in _lines(text):
        if line is None:
            refuse(f"line {number}", raw, f"allowed: {_FORM}")
            continue
        try:
            found.append(line.options())
        except ValueError as error:
            refuse(line.place, line.command, str(error))
            continue
        warn_of_unset(line.name, line.parts_with_variables())
    return {"children": found}
