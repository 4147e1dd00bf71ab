"""Values from Redis that something else may have written: read without an error, or with one that names the key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from orchestrator.core.log import get_logger

logger = get_logger(__name__)

#: As ``schedules.is_number`` in the scripts has it: what Redis can add to, spelled as Redis spells it.
_WHOLE: Final = re.compile("0|-?[1-9][0-9]{0,14}")

#: Field of a counter that was no number and began anew (see ``includes/counters.lua``).
SET_ASIDE: Final = "broken: "

#: What code that takes a stored value apart raises where it is not as this library writes it. JSON and UTF-8 raise
#: ValueErrors.
UNREADABLE: Final = (ValueError, KeyError, IndexError, TypeError, AttributeError)


#: The message of a TypeError by which Python refuses the arguments of a call.
_WRONG_CALL: Final = re.compile(
    r"\(\) (missing \d+ required|takes |got (an unexpected keyword|multiple values|some positional))"
)


def is_wrong_call(error: BaseException) -> bool:
    """Whether a function was called with arguments that it does not take: a fault of the code, and not of a value."""
    return isinstance(error, TypeError) and _WRONG_CALL.search(str(error)) is not None


def stored_text(raw: bytes) -> str:
    """A stored value as text. Bytes that are no UTF-8 are shown as such."""
    return raw.decode("utf-8", "backslashreplace")


def whole_number(text: str) -> int | None:
    """The number in a stored value; ``None`` if it holds something else."""
    return int(text) if _WHOLE.fullmatch(text) else None


def stored_number(key: str, name: str, raw: bytes | str | None, default: int = 0) -> int:
    """The number in a field of a key; the default if it is missing, or no number, which is logged."""
    if raw is None:
        return default
    text = raw if isinstance(raw, str) else stored_text(raw)
    number = whole_number(text)
    if number is None:
        logger.error("%s: %s is %r, which is no whole number; it is not counted", key, name, text)
        return default
    return number


def stored_counts(key: str, fields: Mapping[Any, Any] | Iterable[tuple[bytes, bytes]]) -> dict[str, int]:
    """The counters in a hash. What is no number is logged, and not counted.

    What was set aside is not logged: it stays there, and metrics read it each few seconds. ``doctor`` names it.
    """
    pairs: Any = fields.items() if isinstance(fields, Mapping) else fields
    texts = {stored_text(name): stored_text(value) for name, value in pairs}
    counted = {name: whole_number(text) for name, text in texts.items() if not name.startswith(SET_ASIDE)}
    for name, number in counted.items():
        if number is None:
            logger.error("%s: %s is %r, which is no whole number; it is not counted", key, name, texts[name])
    return {name: number for name, number in counted.items() if number is not None}
