"""Ids of letters, and bounds of searches: pure functions. An id is ``<ms>-<sequence>``, as in a Redis stream."""

from __future__ import annotations

#: Larger than any sequence number.
_ANY_SEQUENCE = 1 << 64


def order(letter_id: str) -> tuple[int, int]:
    """The key by which ids are sorted."""
    ms, _, sequence = letter_id.partition("-")
    return int(ms), int(sequence or 0)


def is_within(letter_id: str, low: str, high: str) -> bool:
    """Whether an id lies between two bounds: ``-``, ``+``, an id, or ms; ``(`` in front excludes the bound itself."""
    place = order(letter_id)
    if low != "-":
        bound = order(low.lstrip("("))
        if place < bound or (low[0] == "(" and place == bound):
            return False
    if high == "+":
        return True
    bound = _upper(high.lstrip("("))
    return place < bound or (high[0] != "(" and place == bound)


def lower_bound(letter_id: str, high: str) -> str:
    """The lower one of an id and an upper bound, which is an id, ``+``, or ms (up to the end of that ms)."""
    return letter_id if high == "+" or order(letter_id) <= _upper(high) else high


def _upper(bound: str) -> tuple[int, int]:
    return order(bound) if "-" in bound else (int(bound), _ANY_SEQUENCE)
