"""Parses source text into a syntax tree, without warnings and with one kind of error."""

from __future__ import annotations

import ast
import re
import warnings

from orchestrator.migration.finding import UnparsableSource

_FILENAME = "<orchestrator.migration>"


def parse(source: str, path: str) -> ast.Module:
    """Parse `source`; `path` serves error messages only. A leading byte order mark is dropped.

    Warnings about the audited code, such as an invalid escape sequence, are not shown: they are not ours.
    Raises UnparsableSource for whatever the parser refuses, also text that is nested too deeply for it.
    """
    _silence_parser_warnings()
    try:
        return ast.parse(source.removeprefix("\ufeff"), filename=_FILENAME)
    except SyntaxError as error:
        raise UnparsableSource(path, error.lineno, error.msg) from error
    except (RecursionError, MemoryError) as error:
        raise UnparsableSource(path, None, "nested too deeply to be parsed") from error
    except ValueError as error:
        raise UnparsableSource(path, None, str(error)) from error


_SILENCE = ("ignore", None, Warning, re.compile(re.escape(_FILENAME) + r"\Z"), 0)


def _silence_parser_warnings() -> None:
    # `warnings.catch_warnings` swaps the process-wide filters and swaps them back: two threads that overlap
    # leave the wrong ones behind. No flag of `compile` turns the parser's warnings off. But they carry the
    # file name it is given, so one lasting filter, for a name that no module can have, concerns nobody else.
    # It must come first, or `-W error` would turn a warning into a syntax error; other code may have put its
    # own in front, or restored an older list. The worst a race can do is to let one warning through.
    if not warnings.filters or warnings.filters[0] != _SILENCE:
        warnings.filterwarnings("ignore", category=Warning, module=_SILENCE[3].pattern)
