"""Asking Redis again until a time has passed: how often, and what is not asked again."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace

import pytest
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.redis import patience
from orchestrator.transport.redis.patience import outlast


class Away:
    """Fails always, and counts."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def __call__(self) -> None:
        self.asked += 1
        raise self.error


def test_it_pauses_longer_and_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    class Pause:
        def wait(self, seconds: float) -> None:
            pauses.append(seconds)

    monkeypatch.setattr(patience, "threading", SimpleNamespace(Event=Pause))
    monkeypatch.setattr(patience, "monotonic", lambda: sum(pauses))
    away = Away(RedisConnectionError("refused"))
    with pytest.raises(RedisConnectionError):
        outlast(4.0, away)
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.45])
    assert away.asked == len(pauses) + 1


def test_it_is_asked_once_when_the_time_has_passed() -> None:
    away = Away(BrokerUnavailable("redis://h", "refused"))
    with pytest.raises(BrokerUnavailable):
        outlast(monotonic(), away)
    assert away.asked == 1


@pytest.mark.parametrize("error", [AuthenticationError("invalid password"), ResponseError("WRONGTYPE no list")])
def test_what_time_does_not_mend_is_raised_at_once(error: Exception) -> None:
    away = Away(error)
    with pytest.raises(type(error)):
        outlast(monotonic() + 60, away)
    wrapped = BrokerUnavailable("redis://h", error)
    wrapped.__cause__ = error
    with pytest.raises(BrokerUnavailable):
        outlast(monotonic() + 60, Away(wrapped))
    assert away.asked == 1
