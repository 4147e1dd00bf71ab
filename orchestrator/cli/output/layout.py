"""Computes the width of each column of a table, and leaves out those without room. Widths are in terminal cells."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

#: Blanks between two columns.
GAP = 2

#: A column that may run over several lines is at least this wide, or as wide as its content.
_FOLDED = 12

#: No column is made narrower than this, whatever the terminal.
_LEAST = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """The columns that are shown, by their place, with their widths; and the places of those left out."""

    shown: tuple[tuple[int, int], ...]
    left_out: tuple[int, ...] = ()


def width_of(text: str) -> int:
    """Terminal cells that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(natural: Sequence[int], folds: Collection[int], drops: Sequence[int], width: int | None) -> Fit:
    """Fit columns of these natural widths into ``width`` cells (``None``: any width).

    Columns in ``folds`` are narrowed first. If that is not enough, columns in ``drops`` are left out, in their order.
    If it is still too wide, the widest columns are narrowed.
    """
    places = list(range(len(natural)))
    if width is None:
        return Fit(tuple((place, natural[place]) for place in places))
    left_out: list[int] = []
    waiting = list(drops)
    while True:
        widths = {place: min(natural[place], _FOLDED) if place in folds else natural[place] for place in places}
        spare = width - sum(widths.values()) - GAP * (len(places) - 1)
        if spare >= 0 or not waiting:
            break
        left_out.append(waiting.pop(0))
        places.remove(left_out[-1])
    while spare > 0 and (narrow := [place for place in places if widths[place] < natural[place]]):
        for place in narrow[:spare]:
            widths[place] += 1
        spare -= len(narrow[:spare])
    while spare < 0 and (widest := max(places, key=lambda place: widths[place])) in widths and widths[widest] > _LEAST:
        widths[widest] -= 1
        spare += 1
    return Fit(tuple((place, widths[place]) for place in places), tuple(left_out))


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` cells, broken at blanks where there are any."""
    if width_of(text) <= width:
        return [text]
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if width_of(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *full, line = _broken(word, width)
        lines += full
    return [*lines, line]


def _broken(word: str, width: int) -> list[str]:
    parts, part, cells = [], "", 0
    for character in word:
        more = _cells(character)
        if part and cells + more > width:
            parts.append(part)
            part, cells = "", 0
        part += character
        cells += more
    return [*parts, part]
