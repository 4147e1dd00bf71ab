"""Large results that a worker has read lately: each item of a map refers to the list that the map goes over."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, Final

#: Results that are kept, and the length of JSON text from which one is.
_MOST: Final = 4
_LARGE: Final = 4096


class ResultCache:
    """Keeps outcomes of handled steps as JSON data. They do not change; who uses a part of one copies it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def get(self, uid: str, number: str) -> Any:
        """A step's outcome, if it is kept; else ``None``."""
        return self._kept.get((uid, number))

    def read(self, uid: str, number: str, text: bytes) -> Any:
        """A step's outcome from its text, which is kept if it is large."""
        outcome = json.loads(text)
        if len(text) >= _LARGE and outcome.get("outcome") == "handled":
            self._kept[uid, number] = outcome
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return outcome
