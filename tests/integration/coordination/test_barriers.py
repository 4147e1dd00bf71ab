"""Barriers as users see them: the same in eager mode and on Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

import pytest

from orchestrator import (
    Agent,
    BarrierBroken,
    InvalidPolicy,
    Message,
    NoOwner,
    Orchestrator,
    OwnerGone,
    UnknownAgent,
    UnknownMessage,
    handles,
)
from orchestrator.telemetry import attach, detach
from orchestrator.transport.redis import commands
from tests.support.coordination_under_test import close, in_session, make
from tests.support.eventually import eventually
from tests.support.lost_answers import LostAnswers


class Phase2(Message):
    party: str = ""


class Undo(Message): ...


class Sink(Agent):
    name = "sink"

    @handles(Phase2)
    def go_on(self, message: Phase2) -> None: ...

    @handles(Undo)
    def undo(self, message: Undo) -> None: ...


@pytest.fixture
def orchestrator(orchestrator: Orchestrator) -> Orchestrator:
    orchestrator.host(Sink)
    # Before threads do so at once, each with a memory of its own.
    assert orchestrator.coordination.barriers() == []
    return orchestrator


def waiting(orchestrator: Orchestrator, party: str, parties: Any, times: int = 1, **options: Any) -> Future[Any]:
    """A party that arrives and waits in a session of its own; results in the generations."""

    def act() -> list[int]:
        barrier = orchestrator.barrier("b", parties, **options)
        return [barrier.arrive(party).wait(20) for _ in range(times)]

    return in_session(orchestrator, act)


def arrived(orchestrator: Orchestrator) -> int:
    states = orchestrator.coordination.barriers()
    return states[0].arrived if states else 0


def accepted(orchestrator: Orchestrator) -> int:
    return sum(row.accepted for row in orchestrator.ledger() if row.queue == "sink")


def test_nobody_goes_on_before_all_have_arrived_and_the_next_generation_begins(orchestrator: Orchestrator) -> None:
    seen: list[int] = []
    done = [waiting(orchestrator, party, 3, times=3) for party in ("a", "b")]
    eventually(lambda: arrived(orchestrator) == 2)
    assert not any(one.done() for one in done)
    done.append(waiting(orchestrator, "c", 3, times=3))
    for one in done:
        seen.append(generations := one.result(30))
        assert generations == sorted(set(generations))
    assert seen[0] == seen[1] == seen[2]


def test_as_many_as_are_needed_pass_whoever_they_are(orchestrator: Orchestrator, session: Any) -> None:
    assert orchestrator.barrier("alone", 1).arrive("a").tripped
    barrier = orchestrator.barrier("b", parties=2)
    first, second, third = (barrier.arrive(agent) for agent in ("a", "b", "c"))
    assert first.wait(10) == second.wait(10) == first.generation
    assert (third.tripped, third.generation > first.generation) == (False, True)


def test_a_party_counts_once_in_a_generation(orchestrator: Orchestrator, session: Any) -> None:
    barrier = orchestrator.barrier("b", parties=2)
    first, second = barrier.arrive("a"), barrier.arrive("a")
    assert first.generation == second.generation
    assert not first.tripped
    assert arrived(orchestrator) == 1
    last = barrier.arrive()
    assert (last.party, last.tripped) == (session.id, True)
    assert first.wait(10) == second.wait(10) == last.wait(10) == first.generation


def test_a_generation_breaks_after_its_time_and_the_barrier_stays_broken_until_a_reset(
    orchestrator: Orchestrator, session: Any
) -> None:
    barrier = orchestrator.barrier("b", ["a", "b", "c"], timeout_s=0.4)
    arrival, began = barrier.arrive("a"), monotonic()
    text = r"barrier 'b' is broken in generation \d+: timeout; 2 missing: b, c"
    with pytest.raises(BarrierBroken, match=text) as error:
        arrival.wait(20)
    assert 0.2 < monotonic() - began < 10
    broken = error.value
    assert (broken.reason, broken.arrived, broken.missing, broken.missing_parties) == ("timeout", ("a",), 2, ("b", "c"))
    with pytest.raises(BarrierBroken, match="timeout"):
        barrier.arrive("b")
    state = barrier.state()
    assert state is not None
    assert (state.broken, state.due_s, state.generation) == ("timeout", None, broken.generation)
    assert not barrier.reset(broken.generation - 1), "another generation"
    assert barrier.reset(broken.generation)
    assert not barrier.reset(broken.generation), "somebody else has reset it"
    assert barrier.arrive("b").generation > broken.generation
    assert not barrier.reset(broken.generation), "it is in use again"


def test_a_reset_breaks_the_generation_that_goes_on(orchestrator: Orchestrator, session: Any) -> None:
    done = waiting(orchestrator, "a", 2)
    barrier = orchestrator.barrier("b", 2)
    assert not orchestrator.barrier("unused", 2).reset()
    eventually(lambda: arrived(orchestrator) == 1)
    assert barrier.reset()
    with pytest.raises(BarrierBroken, match="reset; 1 missing"):
        done.result(10)
    assert not barrier.arrive("b").tripped


def test_who_waits_no_more_breaks_it_for_all(orchestrator: Orchestrator, session: Any) -> None:
    done = waiting(orchestrator, "a", 3)
    eventually(lambda: arrived(orchestrator) == 1)
    with pytest.raises(BarrierBroken, match="wait timeout of party 'b'"):
        orchestrator.barrier("b", 3).arrive("b").wait(0.2)
    with pytest.raises(BarrierBroken, match="wait timeout of party 'b'; 1 missing"):
        done.result(10)


def test_others_have_to_name_the_same_parties(orchestrator: Orchestrator, session: Any) -> None:
    orchestrator.barrier("b", 2).arrive("a")
    others: list[Any] = [(3, "break"), (2, "shrink"), (["a", "b"], "break")]
    for parties, on_death in others:
        with pytest.raises(InvalidPolicy, match="allowed: 2, on_death='break', with which barrier 'b' is in use"):
            orchestrator.barrier("b", parties, on_death=on_death).arrive("b")
    assert orchestrator.barrier("b", 2).arrive("b").tripped


def test_the_parties_of_a_name_are_those_of_its_first_use_until_a_reset(
    orchestrator: Orchestrator, session: Any
) -> None:
    """Regression: an arrival while nobody was there changed the parties, and then the others got the error."""
    barrier, other = orchestrator.barrier("b", ["a", "b"]), orchestrator.barrier("b", parties=3)
    barrier.arrive("a")
    assert barrier.arrive("b").tripped
    with pytest.raises(
        InvalidPolicy, match=r"allowed: \['a', 'b'\], on_death='break', with which barrier 'b' is in use; reset"
    ):
        other.arrive("x")
    with pytest.raises(BarrierBroken) as broken:
        orchestrator.barrier("b", ["a", "b"], timeout_s=0.1).arrive("a").wait(20)
    assert barrier.reset(broken.value.generation)
    with pytest.raises(InvalidPolicy, match="is in use"):
        other.arrive("x")
    assert other.reset()
    assert not other.reset()
    other.arrive("x")
    with pytest.raises(InvalidPolicy, match="allowed: 3, on_death='break'"):
        barrier.arrive("a")


@pytest.mark.parametrize(
    ("make_it", "text"),
    [
        (lambda o: o.barrier("", 2), "name='' is not allowed; allowed: a text of 1 to 200 characters"),
        (lambda o: o.barrier("a\nb", 2), "that can be printed"),
        (lambda o: o.barrier("x" * 201, 2), "a text of 1 to 200 characters"),
        (lambda o: o.barrier("b", 0), "parties=0 is not allowed; allowed: a whole number from 1 to 1000, or a list of"),
        (lambda o: o.barrier("b", 1001), "parties=1001 is not allowed"),
        (lambda o: o.barrier("b", "abc"), "parties='abc' is not allowed; allowed: .* or a list of their names"),
        (lambda o: o.barrier("b", []), r"parties=\[\] is not allowed; allowed: 1 to 1000 different names"),
        (lambda o: o.barrier("b", ["a", "a"]), r"parties=\['a', 'a'\] is not allowed"),
        (lambda o: o.barrier("b", ["a", 3]), "party=3 is not allowed"),
        (lambda o: o.barrier("b", 2, timeout_s=0), "timeout_s=0 is not allowed"),
        (lambda o: o.barrier("b", 2, timeout_s=604_801), "timeout_s=604801 is not allowed"),
        (lambda o: o.barrier("b", 2, on_death="ignore"), "on_death='ignore' is not allowed; allowed: 'break'"),
        (lambda o: o.barrier("b", 2).reset(0), "generation=0 is not allowed"),
        (lambda o: o.barrier("b", 2).arrive(""), "party='' is not allowed"),
        (lambda o: o.barrier("b", ["a", "b"]).arrive("c"), "party='c' is not allowed; allowed: one of a, b"),
        (
            lambda o: o.barrier("b", 2).arrive("a", then=Phase2()),
            "to=None is not allowed; allowed: the agent that then",
        ),
        (lambda o: o.barrier("b", 2).arrive("a", to="sink"), "to='sink' is not allowed; allowed: together with then"),
        (lambda o: o.barrier("b", 2).arrive("a", then=7, to="sink"), "then=7 is not allowed; allowed: an instance of"),
        (lambda o: o.barrier("b", 2).arrive("a", then=7), "then=7 is not allowed; allowed: an instance of"),
        (lambda o: o.barrier("b", 2).arrive("a", then=Phase2(), if_broken="x", to="sink"), "if_broken='x' is not"),
        (lambda o: o.coordination.barriers(0), "limit=0 is not allowed"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    orchestrator: Orchestrator, session: Any, make_it: Callable[[Any], Any], text: str
) -> None:
    with pytest.raises(InvalidPolicy, match=text):
        make_it(orchestrator)
    assert orchestrator.coordination.barriers() == []


def test_it_has_to_have_an_owner_and_messages_somebody_who_handles_them(orchestrator: Orchestrator) -> None:
    barrier = orchestrator.barrier("b", 2)
    with pytest.raises(NoOwner, match="no owner for a place at a barrier"):
        barrier.arrive("a")
    with orchestrator.monitors.session():
        with pytest.raises(UnknownAgent):
            barrier.arrive("a", then=Phase2(), to="nobody")
        with pytest.raises(UnknownMessage):
            barrier.arrive("a", then=type("Other", (Message,), {})(), to="sink")
        assert orchestrator.coordination.barriers() == []


def test_messages_are_left_in_place_of_waiting(orchestrator: Orchestrator, session: Any) -> None:
    told: list[Any] = []
    attach(told.append, "barrier.sent", "barrier.tripped", "barrier.broken")
    try:
        barrier = orchestrator.barrier("b", 2)
        left = barrier.arrive("a", then=Phase2(party="a"), if_broken=Undo(), to="sink")
        with pytest.raises(InvalidPolicy, match="wait='a' is not allowed; allowed: for an arrival without then"):
            left.wait(1)
        assert accepted(orchestrator) == 0
        barrier.arrive("b", then=Phase2(party="b"), to=Sink)
        assert accepted(orchestrator) == 2
        barrier.arrive("a", then=Phase2(party="a"), if_broken=Undo(), to="sink")
        assert barrier.reset()
        assert accepted(orchestrator) == 3
    finally:
        detach(told.append)
    names = [event.name for event in told if event.name != "barrier.sent"]
    assert names == ["barrier.tripped", "barrier.broken"]
    assert told[-1].metadata["barrier"] == "b"


def test_an_arrival_that_is_repeated_replaces_its_message(orchestrator: Orchestrator, session: Any) -> None:
    barrier = orchestrator.barrier("b", 2)
    for _ in range(2):
        barrier.arrive("a", then=Phase2(party="a"), to="sink")
    barrier.arrive("b")
    assert accepted(orchestrator) == 1


def test_all_of_many_messages_are_sent(orchestrator: Orchestrator, session: Any) -> None:
    parties = 210
    barrier = orchestrator.barrier("b", parties)
    for number in range(parties):
        barrier.arrive(f"p{number}", then=Phase2(), to="sink")
    assert accepted(orchestrator) == parties, "more than one script sends; no sweep was needed"


def test_who_has_arrived_can_be_read(orchestrator: Orchestrator, session: Any) -> None:
    done = waiting(orchestrator, "a", ["a", "b", "c"], timeout_s=50)
    barrier = orchestrator.barrier("b", ["c", "b", "a"], timeout_s=50)
    barrier.arrive("b")

    def is_waiting() -> bool:
        state = barrier.state()
        return state is not None and [bool(one.owner) for one in state.present] == [True, False]

    eventually(is_waiting)
    state = barrier.state()
    assert state is not None
    assert (state.arrived, state.missing, state.missing_names) == (2, 1, ("c",))
    assert [one.party for one in state.present] == ["a", "b"]
    assert orchestrator.coordination.barriers() == [state]
    barrier.arrive("c")
    assert done.result(10) == [state.generation]


def test_a_wait_that_is_interrupted_breaks_it(orchestrator: Orchestrator, session: Any) -> None:
    class Interrupted(BaseException): ...

    done = waiting(orchestrator, "a", 3)
    eventually(lambda: arrived(orchestrator) == 1)
    arrival = orchestrator.barrier("b", 3).arrive("b")
    barriers: Any = orchestrator.runtime.mode.barriers

    sleep, mine = barriers.sleep, threading.current_thread()

    def interrupt(*arguments: Any) -> None:
        # The other party may not sleep yet.
        if threading.current_thread() is mine:
            raise Interrupted
        sleep(*arguments)

    barriers.sleep = interrupt
    with pytest.raises(Interrupted):
        arrival.wait(20)
    barriers.sleep = sleep
    with pytest.raises(BarrierBroken, match="interrupted of party 'b'"):
        done.result(10)


# -- Redis alone


def test_a_session_that_is_declared_dead_while_it_waits_breaks_it(redis_url: str) -> None:
    made = make(redis_url)
    store = made.runtime.store
    try:
        with made.monitors.session():
            ids: list[str] = []

            def wait() -> None:
                arrival = made.barrier("b", 3).arrive("a")
                ids.append(arrival._request.owner)
                arrival.wait(20)

            done = in_session(made, wait)
            eventually(lambda: arrived(made) == 1 and made.coordination.barriers()[0].present[0].owner)
            other = made.barrier("b", 3).arrive("b")
            assert store.run(*commands.fence(store.keys, ids[0], "killed", "test"))
            with pytest.raises(BarrierBroken, match="killed of party 'a'; 1 missing") as error:
                other.wait(20)
            assert error.value.party == "a"
            with pytest.raises((OwnerGone, BarrierBroken)):
                done.result(10)
            assert not store.client.exists(store.keys.barriers_of(ids[0]))
    finally:
        close(made)


def test_an_answer_that_is_lost_counts_nobody_twice(redis_url: str) -> None:
    with LostAnswers(redis_url) as proxy:
        cut, plain = make(proxy.url), make(redis_url)
        try:
            with cut.monitors.session():
                barrier = cut.barrier("b", 1)
                cut.coordination.barriers()
                proxy.lose(2, "party-a", done_first=True)
                first = barrier.arrive("party-a")
                assert proxy.left == 0
                (state,) = plain.coordination.barriers()
                assert first.tripped
                assert state.generation == first.generation, "repeated, it would have tripped the next one"
        finally:
            close(cut)
            close(plain)


def test_what_redis_has_forgotten_is_broken_for_who_waits(redis_url: str) -> None:
    made = make(redis_url)
    try:
        done = waiting(made, "a", 2)
        eventually(lambda: arrived(made) == 1)
        for key in made.runtime.store.client.keys("orc:barrier*"):
            made.runtime.store.client.delete(key)
        with pytest.raises(BarrierBroken, match="lost of party 'a'"):
            done.result(10)
    finally:
        close(made)


def test_a_sweep_breaks_a_generation_for_which_nobody_waits(redis_url: str) -> None:
    made = make(redis_url)
    made.host(Sink)
    told: list[Any] = []
    attach(told.append, "barrier.broken")
    try:
        with made.monitors.session():
            made.barrier("b", 2, timeout_s=0.05).arrive("a", then=Phase2(), if_broken=Undo(), to="sink")

        def is_sent() -> bool:
            made.runtime.redis.timers.run()
            return accepted(made) == 1

        eventually(is_sent)
        assert [event.metadata["reason"] for event in told] == ["timeout"]
        assert made.runtime.store.client.zcard(made.runtime.store.keys.timers) == 0
    finally:
        detach(told.append)
        close(made)
