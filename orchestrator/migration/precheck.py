"""A cheap search of the text, so that most files need not be parsed."""

from __future__ import annotations

import re

_SENDS_AND_RESULTS = ("apply_async", "send_task", "AsyncResult", "GroupResult", "ResultSet")
_CANVAS = ("group", "chord", "chain")
_CANVAS_MODULES = ("celery", "canvas")
_DELAY = re.compile(r"\bdelay\b")
# Between two tokens a comment or a backslash may stand. To skip them here would take quadratic time.
_CANVAS_AS_NAME = re.compile(r"(?<![.\w])(?:group|chord|chain)\s*[()#\\]")
_CALL_OF_A_CALL = re.compile(r"\)\s*[(#\\]")


def may_have_findings(source: str) -> bool:
    """Whether `source` contains the words of a send or of a result.

    It may say yes in vain, but it must say yes wherever `evidence` would find something. Substrings go first:
    they are far faster than expressions, and a walk costs as much as parsing did.
    """
    if any(word in source for word in _SENDS_AND_RESULTS):
        return True
    # A common word, unlike the others.
    if "delay" in source and _DELAY.search(source) is not None:
        return True
    if not any(word in source for word in _CANVAS) or _CALL_OF_A_CALL.search(source) is None:
        return False
    return any(word in source for word in _CANVAS_MODULES) or _CANVAS_AS_NAME.search(source) is not None
