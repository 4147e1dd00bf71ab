"""Declarations of how many messages run at a time."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator import Agent, Concurrency, InvalidDeclaration, InvalidPolicy, Message, handles
from orchestrator.agents.declaration import inspect_agent


class Get(Message):
    tenant: str
    token: SecretStr = SecretStr("")


class Other(Message): ...


def declared(concurrency: Any) -> Any:
    class Fetch(Agent):
        name = "fetch"

        @handles(Get)
        def get(self, message: Get) -> None: ...

        @handles(Other)
        def other(self, message: Other) -> None: ...

    Fetch.concurrency = concurrency
    return Fetch


def test_a_declared_limit_is_part_of_the_agent() -> None:
    assert inspect_agent(declared(Concurrency(2, "tenant"))).concurrency == Concurrency(limit=2, key="tenant")
    assert inspect_agent(declared(None)).concurrency is None


@pytest.mark.parametrize(
    ("concurrency", "text"),
    [
        (5, "Fetch.concurrency=5; allowed: a Concurrency"),
        (Concurrency(2, "nothing"), "key='nothing'; allowed: a field of a message that it handles"),
        (Concurrency(2, "token"), "key='token', a secret"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(concurrency: Any, text: str) -> None:
    with pytest.raises(InvalidDeclaration, match=text):
        inspect_agent(declared(concurrency))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0,), "limit=0 is not allowed; allowed: a whole number from 1 to 10000"),
        ((True,), "limit=True is not allowed"),
        ((10_001,), "limit=10001 is not allowed"),
        ((1, "a b"), "key='a b' is not allowed; allowed: the name of a field"),
        ((1, 7), "key=7 is not allowed"),
        ((1, "x" * 101), "is not allowed"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(values: Any, text: str) -> None:
    with pytest.raises(InvalidPolicy, match=text):
        Concurrency(*values)
