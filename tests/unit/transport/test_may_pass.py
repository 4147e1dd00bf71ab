"""Which refusals of Redis may be over later, and which last until somebody changes something."""

from __future__ import annotations

import pytest

from orchestrator.transport.redis.refusals import may_pass


@pytest.mark.parametrize(
    "text",
    [
        "Error 111 connecting to 127.0.0.1:6379. Connection refused.",
        "Redis is loading the dataset in memory",
        "LOADING Redis is loading the dataset in memory",
        "NOREPLICAS Not enough good replicas to write.",
        "MASTERDOWN Link with MASTER is down",
    ],
)
def test_what_may_be_over_later(text: str) -> None:
    assert may_pass(ConnectionError(text))


@pytest.mark.parametrize(
    "text",
    [
        "WRONGPASS invalid username-password pair or user is disabled.",
        # redis-py removes the code.
        "invalid username-password pair or user is disabled.",
        "invalid password",
        "NOAUTH Authentication required.",
        "AUTH <password> called without any password configured for the default user.",
        "NOPERM this user has no permissions to run the 'set' command",
        "OOM command not allowed when used memory > 'maxmemory'.",
    ],
)
def test_what_lasts(text: str) -> None:
    assert not may_pass(ConnectionError(text))
