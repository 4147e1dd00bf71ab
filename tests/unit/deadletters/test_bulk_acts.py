"""An act on many letters says which: a filter, or all of them. The command line has the same rule with ``--all``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from orchestrator import Agent, InvalidPolicy, Message, Orchestrator, Retry, handles
from orchestrator.deadletters.log import DeadLetters


class Charge(Message):
    cents: int


class Billing(Agent):
    name = "billing"
    retry = Retry(max_retries=0)

    @handles(Charge)
    def charge(self, message: Charge) -> None:
        """Always fail."""
        raise ValueError(message.cents)


@pytest.fixture
def log() -> DeadLetters:
    app = Celery("acts", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    orchestrator = Orchestrator(app)
    orchestrator.host(Billing)
    for cents in range(3):
        orchestrator.send("billing", Charge(cents=cents))
    return orchestrator.dead_letters


def sent(done: Any) -> int:
    return int(done.sent)


ACTS: dict[str, Callable[..., int]] = {
    "purge": lambda chosen, **said: chosen.purge(**said),
    "park": lambda chosen, **said: chosen.park("later", **said),
    "unpark": lambda chosen, **said: chosen.unpark(**said),
    "replay": lambda chosen, **said: sent(chosen.replay(**said)),
}

UNFILTERED: list[dict[str, Any]] = [{}, {"state": "all"}, {"metadata": {}}]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("query", UNFILTERED, ids=str)
@pytest.mark.parametrize("until_now", [False, True])
def test_an_action_without_a_filter_is_refused_and_touches_nothing(
    log: DeadLetters, act: str, query: dict[str, Any], until_now: bool
) -> None:
    """Regression: each of these meant all letters, where the command line wants --all."""
    chosen = log.query(**query)
    chosen = chosen.until_now() if until_now else chosen
    before = [letter.id for letter in log.list()]
    with pytest.raises(InvalidPolicy, match=rf"all=False .* allowed: {act}\(all=True\), or a filter such as query\("):
        ACTS[act](chosen)
    assert [letter.id for letter in log.list()] == before
    assert log.audit() == []


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("said", [1, "yes", None])
def test_all_is_true_or_false(log: DeadLetters, act: str, said: Any) -> None:
    with pytest.raises(InvalidPolicy, match="allowed: true, false"):
        ACTS[act](log.query(agent="billing"), all=said)


def test_the_log_s_own_purge_is_no_exception(log: DeadLetters) -> None:
    with pytest.raises(InvalidPolicy, match=r"purge\(all=True\)"):
        log.purge()
    assert log.count() == 3
    assert log.purge(all=True) == 3


def test_a_filter_or_all_is_enough(log: DeadLetters) -> None:
    assert log.query(agent="billing").park("later") == 3
    assert log.query(state="parked").unpark() == 3
    assert log.query(state="all").park("later", all=True) == 3
    assert log.query(state="all").unpark(all=True) == 3
    assert log.query(older_than_s=0).count() == 3
    assert log.query().purge(all=True) == 3


def test_one_letter_by_its_id_is_meant(log: DeadLetters) -> None:
    (first, *_) = log.list()
    assert log.query(state="all").only(first.id).purge() == 1
