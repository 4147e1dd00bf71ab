"""Keeps what one test leaves behind out of the code of the next."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from celery.result import AsyncResult


def drop_results_without_redis() -> None:
    """Have a dropped ``AsyncResult`` send no command.

    Celery unsubscribes from a result's channel in ``AsyncResult.__del__``, which the garbage collection may run in any
    later test. If the test has stopped its Redis, Celery tries for 20 s to reach it and then raises, in whatever code
    was interrupted. What is left out in return is one UNSUBSCRIBE; the connection ends with the test's app or process.
    Workers are processes of their own, without this.
    """

    def forget(result: Any) -> None:
        forget_waiters = getattr(result.backend, "_remove_pending_result", None)
        if forget_waiters is not None:
            forget_waiters(result)

    AsyncResult.__del__ = forget


def format_errors_without_parsing() -> None:
    """Have ``traceback`` mark the whole expression of an error, not the operator in it.

    To find the operator it calls ``ast.parse``. Up to Python 3.12 that fails within another ``ast.parse``:
    garbage collection interrupts a parser, ``__del__`` raises, pytest's hook formats the error, and the outer parser
    raises ``SystemError: AST constructor recursion depth mismatch``, which ends the process of the tests.
    """
    name = "_extract_caret_anchors_from_line_segment"
    if sys.version_info < (3, 13) and hasattr(traceback, name):
        setattr(traceback, name, lambda segment: None)
