"""JSON as kombu writes it, by an encoder that is made once: Python's own makes one for each text."""

from __future__ import annotations

import json.encoder
from collections.abc import Callable
from typing import Any, Final

from kombu.utils.json import JSONEncoder

_encoder: Final = JSONEncoder()
_encode_anew: Final[Callable[[Any], str]] = _encoder.encode


def _lasting() -> Callable[[Any, int], tuple[str, ...]] | None:
    """The encoder behind Python's, where it is one in C."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return None
    e, texts = _encoder, json.encoder.encode_basestring_ascii
    # It keeps no note of what it is within: several threads use it.
    chunks: Callable[[Any, int], tuple[str, ...]] = make(
        None, e.default, texts, e.indent, e.key_separator, e.item_separator, e.sort_keys, e.skipkeys, e.allow_nan
    )
    return chunks


_chunks: Final = _lasting()


def encode(value: Any) -> str:
    """The JSON text of a value, as kombu's encoder writes it.

    Raises:
        TypeError, ValueError, RecursionError: it is not JSON data.
    """
    if _chunks is None:
        return _encode_anew(value)
    try:
        return "".join(_chunks(value, 0))
    except RecursionError:
        # Python's says so where a value contains itself.
        return _encode_anew(value)
