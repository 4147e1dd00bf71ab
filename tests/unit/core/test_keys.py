"""No two things share a name in Redis, whatever texts users choose."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import InvalidSettings
from orchestrator.core.keys import DOORBELL, Keys, levels_of

KEYS = Keys()

#: Texts made of what names are made of.
texts = st.lists(
    st.sampled_from([":", "|", "a", "b", "1", "10", "orc:", "sha1:", "handled", "then", "nothing", "kind", "é"]),
    max_size=4,
).map("".join)
recipients = texts.filter(bool)

#: What each kind of name is made of. Levels, dimensions and periods are the library's own words.
MADE_OF: dict[str, list[st.SearchStrategy[Any]]] = {
    "stream": [texts, st.sampled_from([*levels_of(range(10)), DOORBELL])],
    "deferred": [texts],
    "lanes": [texts],
    "permits": [texts],
    "delayed": [texts],
    "delayed_bodies": [texts],
    "ledger": [texts],
    "flow": [texts],
    "ask": [st.uuids().map(str)],
    "inbox": [st.uuids().map(str)],
    "stale_reply": [st.uuids().map(str)],
    "calls": [texts],
    "bulkhead": [texts],
    "bulkhead_line": [texts],
    "bulkhead_tickets": [texts],
    "idempotency": [texts, recipients, texts],
    "distribution_idempotency": [texts],
    "last_publishes": [st.integers(0, 10**9)],
    "incarnation": [texts],
    "chore": [texts],
    "oom": [texts],
    "endings_reader": [texts],
    "letters": [st.sampled_from(["agent", "message", "error", "reason", "group"]), texts],
    "letters_of": [texts],
    "letter_arrivals": [texts],
    "letter_audit_progress": [texts],
    "outcome": [texts],
    "monitors_of": [texts],
    "named_of": [texts],
    "named_election": [texts],
    "named_terms": [texts],
    "announced_term": [texts],
    "named_line": [texts],
    "named_waiting": [texts],
    "wake": [st.uuids().map(str)],
    "barriers_of": [texts],
    "barrier_call": [st.uuids().map(str)],
    "monitors_on": [texts],
    "downs": [texts],
    "flushed": [st.integers(0, 10**9)],
    "outcome_hooks": [texts],
    "group": [st.uuids().map(str)],
    "items": [st.uuids().map(str)],
    "distribution": [st.uuids().map(str)],
    "schedule": [texts],
    "schedules_of": [texts],
    "scheduler_declares": [texts],
    "schedule_request": [texts],
    "run": [st.integers(0, 2**64).map("{:016x}".format)],
    "runs_placed": [texts],
    "hosts": [texts],
    "servers": [texts],
    "asking": [texts],
    "ballot": [texts],
    "ballot_voters": [texts],
    "ballot_copies": [texts],
    "ballot_votes": [texts],
    "ballot_decision": [texts],
    "ballot_undelivered": [texts],
    "run_times": [st.integers(0, 10**6), texts],
}
NOT_NAMES = ("queue_of_ledger",)
SINGLE = sorted(name for name, value in vars(Keys).items() if isinstance(value, property) and name != "root")


def named(kind: str) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    parts = st.tuples(*MADE_OF[kind])
    if kind == "idempotency":
        # A task's name plays no part where there is an agent.
        parts = parts.map(lambda said: (said[0], "" if said[0] else said[1], said[2]))
    return parts.map(lambda said: (kind, said))


things = st.one_of(
    st.sampled_from(SINGLE).map(lambda name: (name, ())), st.sampled_from(sorted(MADE_OF)).flatmap(named)
)


def key_of(thing: tuple[str, tuple[Any, ...]]) -> str:
    name, parts = thing
    value: str | Callable[..., str] = getattr(KEYS, name)
    return value(*parts) if callable(value) else value


def test_every_kind_of_name_is_tried() -> None:
    kinds = {name for name, value in vars(Keys).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert kinds - {*NOT_NAMES} == set(MADE_OF)


@given(things, things)
def test_two_different_things_have_two_names(one: Any, other: Any) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


@given(st.sampled_from(sorted(MADE_OF)), st.data())
def test_so_have_two_things_of_one_kind(kind: str, data: st.DataObject) -> None:
    one, other = data.draw(named(kind)), data.draw(named(kind))
    assert (key_of(one) == key_of(other)) == (one == other)


COLLIDED = [("idempotency", ("", "t:a", "k")), ("outcome", ("x:then",)), ("stream", ("box|nothing", "0"))]


@pytest.mark.parametrize("thing", COLLIDED)
@given(other=things)
def test_nor_is_the_name_of_what_once_collided_had_by_another(thing: Any, other: Any) -> None:
    assert (key_of(thing) == key_of(other)) == (thing == other)


def test_a_value_that_looks_like_a_sum_is_no_sum() -> None:
    long = "x" * 101
    assert KEYS.letters("error", KEYS.letters("error", long).rpartition(":error:")[2]) != KEYS.letters("error", long)


@pytest.mark.parametrize("prefix", ["orc:ledger:", "shop:orc:outcome:", "orc:flow:"])
def test_a_prefix_in_which_scripts_would_find_a_kind_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidSettings, match="global_keyprefix"):
        Keys(prefix)
