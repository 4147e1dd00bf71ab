"""Household verbs: no text of a log line or an error uses one where the glossary has a technical word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.style.tracked import tracked
from tests.style.words import GLOSSARY, retired_in_shown_texts

_LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}

PACKAGES = {"orchestrator", "workers"}


def shown_texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """The texts in the arguments of calls that log, and of errors that are raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            call = node.exc
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _LOG_METHODS
            and "log" in ast.unparse(node.func.value).lower()
        ):
            call = node
        else:
            continue
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            for part in ast.walk(argument):
                # The keys of an error's fields are names, not prose.
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value:
                    yield part


def household_verbs(path: Path, words: Sequence[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """The problems of one Python file."""
    texts = shown_texts(ast.parse(path.read_text("utf-8")))
    for text in sorted(texts, key=lambda text: text.lineno):
        for pattern, instead in words:
            if found := pattern.search(str(text.value)):
                yield f"{path}:{text.lineno}: {found[0]!r} in a text that is shown; use: {instead}"


def problems() -> Iterator[str]:
    """One line for each household verb in a log line or an error of the library."""
    words = retired_in_shown_texts(GLOSSARY.read_text("utf-8"))
    if not words:
        yield f"{GLOSSARY}: no table of words retired in texts that are shown"
    for path in tracked(".py"):
        if path.parts[0] in PACKAGES:
            yield from household_verbs(path, words)
