"""Changes of schedules whose answers are lost: repeated, they give the first answer, and do nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator import Agent, Mailbox, MailboxFull, Orchestrator, handles
from orchestrator.core.keys import Keys
from orchestrator.schedules.redis import scripts
from orchestrator.transport.redis.commands import Attempt
from tests.support.lost_answers import LostAnswers
from tests.support.schedules_under_test import Reconcile, Schedules, scheduling_app

#: What a command that runs the script has in it.
NEVER = Attempt("", "")
CHANGE = scripts.change_schedule(Keys(), "", "change", most_history=1, attempt=NEVER)[0].sha
DECLARE = scripts.declare_schedules(Keys(), [], most=1, most_history=1, attempt=NEVER)[0].sha
SEND = scripts.send_for_schedule(Keys(), "", [], token="", most_history=1)[0].sha


class Small(Agent):
    """An agent that no worker hosts, with room for two messages."""

    name = "small"
    mailbox = Mailbox(limit=2)

    @handles(Reconcile)
    def reconcile(self, message: Reconcile) -> None:
        """Never run here."""


@pytest.fixture
def lossy(network: LostAnswers) -> Iterator[Orchestrator]:
    """An app by a network that loses answers. Redis knows its scripts, so that none of these answers is NOSCRIPT."""
    made = scheduling_app(network.url)
    known = _add(made, "known")
    known.pause()
    known.trigger()
    known.remove()
    yield made
    made.app.close()


@pytest.fixture
def plain(redis_url: str) -> Iterator[Orchestrator]:
    made = scheduling_app(redis_url)
    yield made
    made.app.close()


def _add(orchestrator: Orchestrator, name: str = "nightly", **options: Any) -> Any:
    return orchestrator.schedules.add(name, "ledgers", Reconcile(), every_s=3600, **options)


def _paused(orchestrator: Orchestrator) -> Any:
    schedule = _add(orchestrator)
    assert schedule.pause()
    return schedule


#: By name: the script, what is there before, what changes it, and the answer.
CHANGES: dict[str, tuple[str, Callable[[Orchestrator], Any], Callable[[Orchestrator], Any], Any]] = {
    "pause": (CHANGE, _add, lambda o: o.schedules["nightly"].pause("release"), True),
    "resume": (CHANGE, _paused, lambda o: o.schedules["nightly"].resume(), True),
    "remove": (CHANGE, _add, lambda o: o.schedules["nightly"].remove(), True),
    "add": (DECLARE, lambda o: None, lambda o: _add(o).id, "nightly"),
    "replace": (DECLARE, _add, lambda o: _add(o, if_exists="replace", jitter_s=1).id, "nightly"),
    "update": (DECLARE, _add, lambda o: o.schedules["nightly"].update(jitter_s=1), None),
}


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_made_once(
    lossy: Orchestrator, plain: Orchestrator, network: LostAnswers, name: str, done_first: bool
) -> None:
    script, prepare, change, answer = CHANGES[name]
    prepare(plain)
    revision = _revision(plain)
    network.lose(1, script, done_first=done_first)
    assert change(lossy) == answer
    assert network.left == 0
    assert _revision(plain) == (0 if name == "remove" else revision + 1)


def _revision(orchestrator: Orchestrator) -> int:
    store = orchestrator.runtime.store
    return int(store.client.hget(store.keys.schedule("nightly"), "r") or 0)


@pytest.mark.parametrize("done_first", [True, False])
def test_a_trigger_is_sent_once(
    lossy: Orchestrator, plain: Orchestrator, network: LostAnswers, done_first: bool
) -> None:
    _add(plain)
    before = Schedules(plain).ids()
    network.lose(1, SEND, done_first=done_first)
    delivery = lossy.schedules["nightly"].trigger()
    assert network.left == 0
    assert Schedules(plain).ids() == [*before, delivery]


def test_a_trigger_is_accepted_although_its_schedule_is_removed_before_it_is_repeated(redis_url: str) -> None:
    made = scheduling_app(redis_url)
    store = made.runtime.store
    _add(made)
    call = scripts.send_for_schedule(store.keys, "nightly", [], token="a", most_history=1)
    first = store.run(*call)
    made.schedules["nightly"].remove()
    assert store.run(*call) == first
    made.app.close()


def test_what_a_full_mailbox_has_refused_is_refused_again(
    lossy: Orchestrator, plain: Orchestrator, network: LostAnswers
) -> None:
    """And what it took of the same call is not sent twice."""
    lossy.host(Small)
    plain.host(Small)
    # A mailbox' bound is declared by what sends to it, or serves it.
    plain.send("small", Reconcile())
    hourly = lossy.schedules.add("hourly", "small", Reconcile(), every_s=3600)
    network.lose(1, SEND, done_first=True)
    begin = datetime.now(UTC)
    with pytest.raises(MailboxFull) as refused:
        hourly.backfill(begin, begin + timedelta(hours=4))
    assert network.left == 0
    assert refused.value.accepted == 1
    assert len(Schedules(plain).ids("small")) == 2
