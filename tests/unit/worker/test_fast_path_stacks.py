"""Celery's stacks of what runs, which the short way leaves without giving them up."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.threads import _FastLocalStack, _LocalStack

from orchestrator.worker.requests.fast_path_request import _pop


@pytest.mark.parametrize("kind", [_LocalStack, _FastLocalStack])
def test_what_was_pushed_is_gone_and_what_was_below_is_not(kind: Any) -> None:
    stack = kind()
    for _ in range(2):
        outer = stack.push("outer")
        inner = stack.push("inner")
        assert stack.top == "inner"
        _pop(stack, inner)
        assert stack.top == "outer"
        _pop(stack, outer)
        assert stack.top is None
        assert len(stack) == 0
