"""JSON by an encoder that is made once is what kombu's own encoder writes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import JSONEncoder

from orchestrator.transport import json_text
from orchestrator.transport.json_text import encode

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(datetime(2026, 11, 30, tzinfo=UTC))
    | st.just(Decimal("1.5"))
    | st.just(UUID(int=7))
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_the_text_is_that_of_kombu(value: Any) -> None:
    assert encode(value) == JSONEncoder().encode(value)


def test_a_value_within_itself_is_named_as_one() -> None:
    value: list[Any] = []
    value.append({"in": value})
    with pytest.raises(ValueError, match="Circular reference"):
        encode(value)
    assert encode([1]) == "[1]"


def test_what_is_not_json_data_is_an_error() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        encode({"a": object()})


def test_a_python_without_an_encoder_in_c_writes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "_chunks", None)
    assert encode({"a": [1, "ü"]}) == '{"a": [1, "\\u00fc"]}'
