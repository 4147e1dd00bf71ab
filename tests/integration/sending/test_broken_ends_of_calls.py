"""The connection breaks at the end of a call: that the request is given up is not what its caller waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from orchestrator import DeliveryTimeout, NotEnoughReplies, Orchestrator, Retry, Value
from orchestrator.transport.redis.scripts import script_of
from tests.apps import calls_app
from tests.apps.calls_app import Quote
from tests.support.coordination_under_test import close
from tests.support.living_agents import live
from tests.support.lost_answers import LostAnswers
from tests.support.worker_process import WorkerProcess

#: More often than any command is repeated.
_OFTEN: Final = 9


@pytest.fixture
def proxy(redis_url: str) -> Iterator[LostAnswers]:
    with LostAnswers(redis_url) as proxy:
        yield proxy


@pytest.fixture
def caller(proxy: LostAnswers) -> Iterator[Orchestrator]:
    """Calls agents of which ``alone`` and ``billing`` live as far as Redis says, and never reply."""
    made = calls_app.make(proxy.url)
    live(made, "alone", "billing")
    # The connection is open, and the scripts are loaded.
    for retry in (None, Retry(max_retries=1)):
        with pytest.raises(DeliveryTimeout):
            # On a busy machine, 10 ms may be over before the request is built, and nothing is sent then.
            made.call("alone", Quote(number=1), timeout_s=0.2, retry=retry)
    yield made
    close(made)


def lose(proxy: LostAnswers, script: str, times: int) -> None:
    proxy.lose(times, script_of("orchestrator.transport.redis", script).sha, done_first=True)


@pytest.mark.parametrize("times", [1, _OFTEN])
@pytest.mark.parametrize(("script", "retry"), [("find_delivery", None), ("end_ask", Retry(max_retries=1))])
def test_a_call_without_a_reply_is_one_that_has_timed_out(
    proxy: LostAnswers, caller: Orchestrator, script: str, retry: Retry | None, times: int
) -> None:
    """Regression: it was an outage of Redis, for which no fallback is tried."""
    lose(proxy, script, times)
    with pytest.raises(DeliveryTimeout):
        caller.call("alone", Quote(number=1), timeout_s=0.3, retry=retry)
    assert proxy.left < times
    lose(proxy, script, times)
    assert caller.call("alone", Quote(number=1), timeout_s=0.3, retry=retry, fallback=[Value(5)]) == 5
    assert proxy.left < times
    proxy.lose(0, "", done_first=True)


@pytest.mark.parametrize("times", [1, _OFTEN])
def test_a_question_to_many_without_enough_replies_says_so(
    proxy: LostAnswers, caller: Orchestrator, times: int
) -> None:
    lose(proxy, "end_ask", times)
    with pytest.raises(NotEnoughReplies) as error:
        caller.ask_all(["alone", "billing"], Quote(number=1), timeout_s=0.3)
    assert {agent: type(why) for agent, why in error.value.errors.items()} == dict.fromkeys(
        ("alone", "billing"), DeliveryTimeout
    )
    assert proxy.left < times
    proxy.lose(0, "", done_first=True)


def test_replies_are_not_thrown_away_because_the_others_cannot_be_given_up(
    redis_url: str, proxy: LostAnswers, caller: Orchestrator
) -> None:
    """Regression: the caller got the error of giving up in place of the replies that it had."""
    with WorkerProcess("tests.apps.calls_app", redis_url, queues="billing"):
        lose(proxy, "end_ask", _OFTEN)
        replies: Any = caller.ask_all(["billing", "alone"], Quote(number=21), timeout_s=20, need=1)
        assert dict(replies.results) == {"billing": 42}
        assert proxy.left < _OFTEN
        proxy.lose(0, "", done_first=True)
