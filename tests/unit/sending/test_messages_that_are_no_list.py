"""What `send_many` is given must be a list of messages, and no message or text by itself."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.errors import InvalidPolicy
from tests.apps import agents_app

NO_LISTS = [5, 1.5, None, True, object(), int, "", "abc", b"x", {}, agents_app.Add(a=1, b=2)]


@pytest.mark.parametrize("messages", NO_LISTS, ids=lambda value: type(value).__name__)
def test_it_is_refused(messages: Any) -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    with pytest.raises(InvalidPolicy, match=r"^messages=.* is not allowed; allowed: a list of messages$"):
        orchestrator.send_many("worker", messages)


def test_an_empty_list_and_a_generator_are_not() -> None:
    orchestrator = agents_app.make("redis://127.0.0.1:1/0", eager=True)
    assert len(orchestrator.send_many("worker", [])) == 0
    assert len(orchestrator.send_many("worker", (agents_app.Add(a=1, b=n) for n in range(2)))) == 2
