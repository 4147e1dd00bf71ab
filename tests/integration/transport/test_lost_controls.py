"""Controls whose answers are lost give them when they are repeated, and undo nothing that another has done since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery

from orchestrator import Agent, Breaker, CancelResult, Message, Orchestrator, handles, load_settings
from orchestrator.core.keys import GROUP, Keys
from orchestrator.transport.redis.scripts import Script, own, script_of, sha
from tests.support.eventually import eventually
from tests.support.junk_keys import other_type_at
from tests.support.lost_answers import LostAnswers

KEYS = Keys()


class Note(Message):
    text: str = ""


class Clerk(Agent):
    name = "clerk"
    breaker = Breaker(failures=2)

    @handles(Note)
    def read(self, message: Note) -> None:
        """Never run here."""


def make(url: str) -> Orchestrator:
    app = Celery("controls", broker=url, set_as_current=False)
    orchestrator = Orchestrator(app, load_settings(broker_url=url))
    orchestrator.host(Clerk)
    return orchestrator


@pytest.fixture
def plain(redis_url: str) -> Iterator[Orchestrator]:
    """Another process, whose connections do not break."""
    made = make(redis_url)
    for script in (own("find_delivery"), *(control.script for control in CONTROLS.values())):
        made.runtime.store.client.script_load(script.source)
    yield made
    made.app.close()


@pytest.fixture
def lossy(network: LostAnswers, plain: Orchestrator) -> Iterator[Orchestrator]:
    made = make(network.url)
    yield made
    made.app.close()


@dataclass(frozen=True)
class Control:
    """What is controlled by hand."""

    script: Script
    #: What is there before.
    prepare: Callable[[Orchestrator], Any]
    act: Callable[[Orchestrator], Any]
    answer: Any
    #: What another does then, and how it is afterwards.
    undo: Callable[[Orchestrator], Any]
    is_undone: Callable[[Orchestrator], bool]


def _declare(o: Orchestrator) -> None:
    o.hierarchy("ops", {"clerk": []})


def _override(o: Orchestrator) -> Any:
    return o.timeouts.override("clerk", 5, for_s=60).timeout_s


def _is_overridden(o: Orchestrator) -> bool:
    return [one.name for one in o.timeouts.overrides()] == ["clerk"]


def _have_start_paused(o: Orchestrator) -> bool:
    # A user's `pause` and `resume` count the runs that they have changed, and pass on nothing of this.
    return o.runtime.redis.runs.controls.set_paused("waits", paused=True)


def _have_start_running(o: Orchestrator) -> bool:
    return o.runtime.redis.runs.controls.set_paused("waits", paused=False)


def _starts_paused(o: Orchestrator) -> bool:
    return bool(o.runtime.store.client.sismember(KEYS.paused_workflows, "waits"))


def _arrive(o: Orchestrator, party: str = "a") -> None:
    with o.monitors.session():
        o.barrier("b", 2).arrive(party)


def _reset_and_arrive(o: Orchestrator) -> None:
    _arrive(o, "b")
    assert o.barrier("b", 2).reset()
    _arrive(o, "c")


def _arrived(o: Orchestrator) -> list[str]:
    state = o.barrier("b", 2).state()
    return [] if state is None else [one.party for one in state.present]


def _isolate(o: Orchestrator) -> bool:
    return o.breakers.isolate("clerk", why="it deletes too much")


CONTROLS = {
    "isolate a breaker": Control(
        own("isolate_breaker"),
        lambda o: None,
        _isolate,
        True,
        lambda o: o.breakers.close("clerk"),
        lambda o: o.breakers.state("clerk").phase == "closed",
    ),
    "close a breaker": Control(
        own("close_breaker"),
        _isolate,
        lambda o: o.breakers.close("clerk"),
        True,
        _isolate,
        lambda o: o.breakers.state("clerk").phase == "isolated",
    ),
    "delete a hierarchy": Control(
        script_of("orchestrator.coordination.distribution", "delete_hierarchy"),
        _declare,
        lambda o: o.hierarchies.delete("ops"),
        True,
        _declare,
        lambda o: o.hierarchies.names() == ["ops"],
    ),
    "clear a timeout": Control(
        own("clear_timeouts"), _override, lambda o: o.timeouts.clear("clerk"), 1, _override, _is_overridden
    ),
    "clear all timeouts": Control(
        own("clear_timeouts"), _override, lambda o: o.timeouts.clear(), 1, _override, _is_overridden
    ),
    "override a timeout": Control(
        own("override_timeout"),
        lambda o: None,
        _override,
        5.0,
        lambda o: o.timeouts.clear(),
        lambda o: o.timeouts.overrides() == [],
    ),
    "pause a workflow": Control(
        script_of("orchestrator.workflows", "set_paused"),
        lambda o: None,
        _have_start_paused,
        True,
        lambda o: o.workflows.resume("waits"),
        lambda o: not _starts_paused(o),
    ),
    "resume a workflow": Control(
        script_of("orchestrator.workflows", "set_paused"),
        _have_start_paused,
        _have_start_running,
        True,
        lambda o: o.workflows.pause("waits"),
        _starts_paused,
    ),
    "reset a barrier": Control(
        script_of("orchestrator.coordination.barriers", "reset_barrier"),
        _arrive,
        lambda o: o.barrier("b", 2).reset(),
        True,
        _reset_and_arrive,
        lambda o: _arrived(o) == ["c"],
    ),
}


def _server_ms(o: Orchestrator) -> int:
    seconds, micros = o.runtime.store.client.time()
    return int(seconds) * 1000 + int(micros) // 1000


#: An overridden timeout is answered the same again, but for its end.
@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "override a timeout"])
def test_it_gives_the_first_answer(lossy: Orchestrator, network: LostAnswers, name: str) -> None:
    control = CONTROLS[name]
    control.prepare(lossy)
    network.lose(1, control.script.sha, done_first=True)
    assert control.act(lossy) == control.answer
    assert network.left == 0


def test_an_overridden_timeout_ends_when_its_first_answer_says(
    lossy: Orchestrator, network: LostAnswers, plain: Orchestrator
) -> None:
    first: list[int] = []

    def let_time_pass() -> None:
        (one,) = plain.timeouts.overrides()
        eventually(lambda: _server_ms(plain) > one.at_ms)
        first.append(one.until_ms)

    network.lose(1, sha("override_timeout"), done_first=True, meanwhile=let_time_pass)
    answer = lossy.timeouts.override("clerk", 5, for_s=60)
    assert network.left == 0
    assert [answer.until_ms] == first == [one.until_ms for one in plain.timeouts.overrides()]


@pytest.mark.parametrize("name", CONTROLS)
def test_it_does_not_undo_what_another_has_done_since(
    lossy: Orchestrator, network: LostAnswers, plain: Orchestrator, name: str
) -> None:
    control = CONTROLS[name]
    control.prepare(lossy)
    network.lose(1, control.script.sha, done_first=True, meanwhile=lambda: control.undo(plain))
    control.act(lossy)
    assert network.left == 0
    assert control.is_undone(plain)


@pytest.mark.parametrize("name", CONTROLS)
def test_it_is_done_where_its_answer_cannot_be_recorded(plain: Orchestrator, name: str) -> None:
    control, store = CONTROLS[name], plain.runtime.store
    control.prepare(plain)
    period = int(store.client.time()[0] // 300)
    with (
        other_type_at(store.client, KEYS.last_publishes(period)),
        other_type_at(store.client, KEYS.last_publishes(period + 1)),
    ):
        assert control.act(plain) == control.answer


# -- deliveries


@pytest.mark.parametrize("options", [{}, {"countdown_s": 60}], ids=["waiting", "scheduled"])
def test_a_delivery_is_cancelled(
    lossy: Orchestrator, network: LostAnswers, plain: Orchestrator, options: dict[str, Any]
) -> None:
    """Regression: its sender got an error, and the repetition was too late."""
    delivery = lossy.send("clerk", Note(), **options)
    # It is looked for in one part of the mailbox after the other.
    mark = KEYS.stream("clerk", lossy.runtime.store.levels[1]) if not options else sha("find_delivery")
    network.lose(1, mark, done_first=True)
    assert delivery.cancel() is CancelResult.CANCELLED
    assert network.left == 0
    assert plain.runtime.store.client.hget(KEYS.ledger("clerk"), "cancelled") == b"1"
    assert delivery.cancel() is CancelResult.TOO_LATE


def test_a_held_delivery_that_ends_before_its_cancel_is_repeated_was_stopped(
    lossy: Orchestrator, network: LostAnswers, plain: Orchestrator
) -> None:
    delivery, client = lossy.send("clerk", Note()), plain.runtime.store.client
    (stream,) = (one for one in plain.runtime.store.streams("clerk") if client.xlen(one))
    client.xgroup_create(stream, GROUP, "0")
    assert client.xreadgroup(GROUP, "somebody", {stream: ">"}, count=1)

    def end() -> None:
        assert client.hexists(KEYS.outcome_hooks(delivery.id), "cancel")
        client.rpush(KEYS.outcome(delivery.id), '{"outcome": "cancelled", "by": "sender"}')

    network.lose(1, stream, done_first=True, meanwhile=end)
    assert delivery.cancel() is CancelResult.WHEN_IT_ENDS
    assert network.left == 0
