"""Cuts long texts before they are searched for secrets: that takes 0.6 s for each megabyte, with the interpreter lock.

A text is cut at its end alone. There the search finds the beginning of a value that was cut off, and masks it; a value
whose name was cut off it could not find.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

#: Characters of a text that are searched, at most: more than is kept of any error.
LONGEST: Final = 16_000

#: Errors of a chain of causes that are looked at, at most.
_LONGEST_CHAIN: Final = 50


def shortened(text: str, most: int = LONGEST) -> str:
    """The text, or its beginning and how long it was."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def with_short_errors(traceback: str, error: BaseException | None) -> str:
    """A formatted traceback in which the text of each error and each note is shortened, so that its last lines stay.

    If it is long for another reason, its beginning.
    """
    if len(traceback) > LONGEST:
        for text in texts_of(error):
            if len(text) > LONGEST:
                traceback = traceback.replace(text, shortened(text))
    return shortened(traceback, 4 * LONGEST)


def texts_of(error: BaseException | None) -> Iterator[str]:
    """The texts and the notes of an error and of all errors that its traceback shows."""
    for each in error_chain(error):
        try:
            yield str(each)
        except Exception:  # noqa: BLE001, S112
            continue
        yield from (note for note in getattr(each, "__notes__", ()) if isinstance(note, str))


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its causes and contexts, and the members of groups."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _LONGEST_CHAIN:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
