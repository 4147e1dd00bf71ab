"""When a message first lay in its mailbox is known after it was returned, retried or replayed; without a worker."""

from __future__ import annotations

import json

from orchestrator.core.admission.flow_policy import Flow, Mailbox
from orchestrator.transport.admission.flow_control import declare_flow
from orchestrator.transport.redis import commands
from tests.support.letters_under_test import QUEUE, LettersInRedis, wire_message

#: Long ago, so that no test waits for time to pass.
FIRST_MS = 1_600_000_000_000


def accepted(letter_log: LettersInRedis) -> None:
    letter_log.redis.xadd(letter_log.keys.stream(QUEUE, "0"), {"m": wire_message(1)}, id=f"{FIRST_MS}-0")


def claimed(letter_log: LettersInRedis) -> tuple[str, str]:
    """The step and the entry that a worker is given."""
    k, levels = letter_log.keys, ["returned-0", "0"]
    _, at, entry, _, _ = letter_log.store.run(*commands.claim(k, [QUEUE], levels, "w#1", 1))
    return levels[int(at) - 4], entry.decode()


def requeue(letter_log: LettersInRedis, *, died: bool) -> bytes:
    level, entry = claimed(letter_log)
    k, reason = letter_log.keys, "killed" if died else ""
    stream = k.stream(QUEUE, level)
    (said,) = letter_log.store.run(
        *commands.requeue_held(k, QUEUE, stream, [entry], max_deaths=3, ttl_ms=1000, by="w#1", reason=reason)
    )
    return bytes(said)


def retry(letter_log: LettersInRedis) -> None:
    """As a worker does, which knows the entry's id only."""
    level, entry = claimed(letter_log)
    k, message = letter_log.keys, json.loads(wire_message(1))
    message["headers"]["orc_sent_ms"] = int(entry.split("-")[0])
    text = json.dumps(message)
    letter_log.store.run(*commands.retry(k, QUEUE, k.stream(QUEUE, level), entry, "0|x", text, 0, ttl_ms=1000))


def sent_ms(letter_log: LettersInRedis) -> int:
    (letter,) = letter_log.log.list()
    return letter.sent_ms


def test_poison_says_when_it_was_first_accepted(letter_log: LettersInRedis) -> None:
    accepted(letter_log)
    assert [requeue(letter_log, died=True) for _ in range(3)] == [b"returned", b"returned", b"poison"]
    assert sent_ms(letter_log) == FIRST_MS


def test_what_is_retried_after_a_death_says_it_too(letter_log: LettersInRedis) -> None:
    accepted(letter_log)
    requeue(letter_log, died=True)
    retry(letter_log)
    assert [requeue(letter_log, died=True) for _ in range(2)] == [b"returned", b"poison"]
    assert sent_ms(letter_log) == FIRST_MS


def test_what_dies_after_a_retry_says_it_too(letter_log: LettersInRedis) -> None:
    accepted(letter_log)
    retry(letter_log)
    assert [requeue(letter_log, died=True) for _ in range(3)][-1] == b"poison"
    assert sent_ms(letter_log) == FIRST_MS


def test_a_letter_that_is_replayed_and_dies_says_when_it_was_replayed(letter_log: LettersInRedis) -> None:
    accepted(letter_log)
    retry(letter_log)
    for _ in range(3):
        requeue(letter_log, died=True)
    (letter,) = letter_log.log.list()
    letter_log.log.replay(letter.id)
    assert [requeue(letter_log, died=True) for _ in range(3)][-1] == b"poison"
    assert sent_ms(letter_log) > FIRST_MS


def test_the_oldest_that_waits_is_as_old_as_it_is_after_a_return(letter_log: LettersInRedis) -> None:
    accepted(letter_log)
    requeue(letter_log, died=False)
    (state,) = letter_log.store.run(*commands.mailbox_states(letter_log.keys, ["returned-0", "0"], [QUEUE]))
    seconds, _ = letter_log.redis.time()
    assert abs(int(state[4]) / 1000 - (seconds - FIRST_MS / 1000)) < 60


def test_a_full_mailbox_drops_what_was_accepted_first_although_it_was_returned(letter_log: LettersInRedis) -> None:
    accepted(letter_log)
    _, entry = claimed(letter_log)
    k = letter_log.keys
    second = f"{FIRST_MS + 1}-0"
    letter_log.redis.xadd(k.stream(QUEUE, "0"), {"m": wire_message(2)}, id=second)
    stream = k.stream(QUEUE, "0")
    letter_log.store.run(*commands.requeue_held(k, QUEUE, stream, [entry], max_deaths=3, ttl_ms=1000, by="w#1"))
    declare_flow(letter_log.store, QUEUE, Flow(mailbox=Mailbox(2, overflow="drop_oldest")), serves=True)
    letter_log.store.run(*commands.publish(k.stream(QUEUE, "0"), k.ledger(QUEUE), [wire_message(3)]))
    (letter,) = letter_log.log.list()
    assert (letter.raw, letter.sent_ms) == (wire_message(1), FIRST_MS)
