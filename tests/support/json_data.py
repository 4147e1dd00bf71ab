"""Strategies for what may come over a wire."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)

#: Whatever Python's JSON decoder can return, NaN and Infinity included.
json_data: st.SearchStrategy[Any] = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def objects(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these fields, and anything in them."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_data))
