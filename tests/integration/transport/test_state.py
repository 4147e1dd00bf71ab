"""The transport's scripts do what the model of a mailbox says; and the machine finds what is planted in them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from orchestrator.embedded import EmbeddedServer
from tests.support.claims_machine import Mailbox
from tests.support.driven_machine import drive_machine
from tests.support.mailbox_machine import QUEUE
from tests.support.planted_faults import Fault, assert_finds, cases


def test_the_mailbox_is_what_the_model_says(own_redis_server: EmbeddedServer) -> None:
    Mailbox.url = own_redis_server.url
    drive_machine(Mailbox, "MAILBOX_EXAMPLES", examples=25, steps=40)


#: In a script: what is right, and what is not.
FAULTS = {
    "a requeued message is lost": Fault("local now_at = put(to, m or '', d, u, r, s, n)", "local now_at = '0-1'"),
    "a fenced worker claims": Fault(
        "if needs_lease == '1' and not redis.call('ZSCORE', leases, incarnation)", "if false"
    ),
    "an acknowledgement counts twice": Fault(
        "local ended = redis.call('XACK', stream, group, unpack(ids))",
        "local ended = #ids\nredis.call('XACK', stream, group, unpack(ids))",
    ),
    "the least urgent come first": Fault("for s = 1, levels do\n  for base", "for s = levels, 1, -1 do\n  for base"),
    "a publish whose answer was lost is accepted twice": Fault("if last == token then return last end", ""),
    "what is scheduled whose answer was lost is accepted twice": Fault(
        "if publishes and is_repeated_publish(publishes, token) then", "if false then"
    ),
    "what is due is delivered again and again": Fault("redis.call('ZREM', delayed, member)", ""),
    "what is not yet due is delivered": Fault(
        "KEYS[base], '-inf', now, 'LIMIT'", "KEYS[base], '-inf', '+inf', 'LIMIT'"
    ),
    "the body of what was delivered stays": Fault("redis.call('HDEL', bodies, member, ", "redis.call('HDEL', bodies, "),
    "a requeued message goes to the end of the line": Fault("then level = 'returned-' .. level end", "then end"),
    "a death too many before it is poison": Fault("death and count >= max_deaths", "death and count > max_deaths"),
    "who was only beside the dead is a suspect": Fault("if mark >= 2 then death", "if mark >= 1 then death"),
    "who was claimed ahead is a suspect": Fault("'RETRYCOUNT', 0, 'JUSTID'", "'RETRYCOUNT', 1, 'JUSTID'"),
    "who was run by one that drained is a suspect": Fault(
        "local has_left = reason == 'drained' or", "local has_left ="
    ),
    "a retry forgets the deaths": Fault(
        "now_ms() + tonumber(delay_ms), d, s)", "now_ms() + tonumber(delay_ms), nil, s)"
    ),
    "a sweep leaves the rest to nobody": Fault("elseif result then", "elseif false then"),
    "a dead letter is replayed twice": Fault("drop_letters(root, gone, of_kind, origins, how.gapless)", ""),
    "a fenced worker requeues what another has": Fault(
        "if redis.call('XACK', stream, group, id) == 0 or redis.call('XDEL', stream, id) == 0 then return nil end",
        "redis.call('XACK', stream, group, id)\n  redis.call('XDEL', stream, id)",
    ),
    "who is dead is not forgotten": Fault("redis.call('ZREM', dying, id)\nredis.call('DEL', incarnation_key)", ""),
    "the fenced goes on": Fault("if not redis.call('ZSCORE', leases, id) then return {0} end", ""),
}


@pytest.mark.parametrize("fault", cases(FAULTS, fast=5))
def test_the_machine_finds_a_planted_fault(own_redis_server: EmbeddedServer, fault: str) -> None:
    Mailbox.url = own_redis_server.url
    assert_finds(Mailbox, FAULTS[fault], examples=100, steps=40)


def test_deaths_outlive_an_attempt_that_merely_failed(redis_url: str) -> None:
    """Regression: a message that killed its workers, and now and then raised an error, was never poison."""
    Mailbox.url = redis_url
    mailbox = Mailbox()
    mailbox.begin(0)
    mailbox.publish(0, 1)
    first, second = mailbox.all_workers
    mailbox.claim(first, 1)
    mailbox.start_running(first, 0, 2)
    mailbox.die(first, "killed", 3)
    for _ in range(2):
        mailbox.claim(second, 1)
        assert len(second.held) == 1
        mailbox.retry_now(second, 0)
    mailbox.claim(second, 1)
    assert mailbox.deaths == {second.held[0].name: 1}
    mailbox.settle(second, 0, "handled")
    assert not mailbox.redis.exists(mailbox.keys.delayed_bodies(QUEUE))
    mailbox.teardown()


@pytest.mark.slow
def test_the_machine_waits_for_a_server_that_stalls(own_redis_server: EmbeddedServer) -> None:
    """Regression: the machine gave up once, and Hypothesis said that its data was drawn in another way."""
    Mailbox.url = own_redis_server.url
    mailbox = Mailbox()
    mailbox.begin(0)
    os.kill(own_redis_server.pid, signal.SIGSTOP)
    going_on = threading.Timer(5.5, os.kill, (own_redis_server.pid, signal.SIGCONT))
    going_on.start()
    mailbox.publish(0, 2)
    mailbox.the_ledger_balances()
    mailbox.teardown()
    going_on.join()
