"""An election after a gap: Redis was away, or all candidates were, or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import time
from typing import Any

import pytest
from redis import Redis

from orchestrator import Term
from orchestrator.coordination.election import Election
from orchestrator.core.keys import Keys
from orchestrator.embedded import EmbeddedServer
from tests.support.candidate_process import LEASE_S, CandidateProcess
from tests.support.coordination_under_test import close, make
from tests.support.eventually import eventually

ELECTION = "scheduler"

KEPT = {"appendonly": "yes", "appendfsync": "always"}


@contextmanager
def observer(server: EmbeddedServer) -> Iterator[Election]:
    """The election as one sees it who is no candidate."""
    orchestrator = make(server.url)
    yield orchestrator.election(ELECTION)
    close(orchestrator)


def leases_run_out(server: EmbeddedServer) -> Any:
    """Returns what waits until all leases that are known now have run out."""
    with Redis.from_url(server.url) as client:
        leases: Any = client.zrange(Keys().leases, 0, -1, withscores=True)
    last_ms = max(at for _, at in leases)
    return lambda: eventually(lambda: time() * 1000 > last_ms + LEASE_S * 1000 + 500, 60)


def sweep_in_earnest(server: EmbeddedServer) -> None:
    """Sweep, so that the next sweep is not the first, after which nobody is judged for a while."""
    orchestrator = make(server.url)
    store = orchestrator.runtime.store
    store.sweeper().sweep("test")
    store.client.hset(store.keys.sweep, mapping={"closed_counts_ms": 0, "old_heartbeat_counts_ms": 0})
    close(orchestrator)


@pytest.mark.parametrize("is_kept", [True, False], ids=["with its data", "empty"])
def test_after_a_gap_without_candidates_the_next_term_has_a_larger_number(is_kept: bool) -> None:
    with EmbeddedServer(config=KEPT if is_kept else {}) as server:
        with CandidateProcess(server.url, ELECTION) as first:
            number = first.term()
            with CandidateProcess(server.url, ELECTION) as waiting:
                with observer(server) as election:
                    led = election.leader()
                    assert led is not None
                    eventually(lambda: len(election.candidates()) == 1)
                run_out = leases_run_out(server)
                # The one that waits first: else it would lead.
                waiting.kill()
                first.kill()
        server.kill()
        run_out()
        server.restart()
        with observer(server) as election, CandidateProcess(server.url, ELECTION) as next_one:
            following = next_one.term()
            assert following > number
            leader = election.leader()
            assert leader is not None
            assert (leader.number, election.candidates()) == (following, ())
            if is_kept:
                ended = election.observe(after=led, timeout_s=10)
                assert ended is not None
                assert ended.ended_s is not None
                # Nobody has seen how a process ended whose Redis was away: it was silent.
                assert ended == Term(ELECTION, number, led.leader, led.since_s, "lost", ended.ended_s)
                assert led.since_s < ended.ended_s <= leader.since_s
                assert election.observe(after=ended, timeout_s=10) == leader
            assert next_one.leads()


def test_nobody_is_deposed_for_the_time_in_which_redis_was_away() -> None:
    with (
        EmbeddedServer(config=KEPT) as server,
        CandidateProcess(server.url, ELECTION) as first,
        observer(server) as election,
    ):
        number = first.term()
        with CandidateProcess(server.url, ELECTION) as second:
            eventually(lambda: len(election.candidates()) == 1)
            sweep_in_earnest(server)
            run_out = leases_run_out(server)
            server.kill()
            run_out()
            server.restart()
            assert first.leads()
            leader = election.leader()
            assert leader is not None
            assert leader.number == number
            first.kill()
            assert second.term() > number
            ended = election.observe(after=leader, timeout_s=10)
            assert ended is not None
            # By whoever finds it first: the sweep that sees its heartbeat late, or one that sees how its process ended.
            assert ended.reason in ("lost", "killed")


def test_candidates_without_a_worker_sweep_for_one_of_them_that_is_missed() -> None:
    """Regression: they waited until nobody had swept for as long as a monitor manager may take."""
    never = {"lease_s": 60, "sweep_stale_s": 600}
    with (
        EmbeddedServer() as server,
        Redis.from_url(server.url) as client,
        CandidateProcess(server.url, ELECTION, **never) as first,
    ):
        number = first.term()
        # Somebody has swept before, and the graces of a first sweep are over.
        now_s: Any = client.time()
        client.hset(Keys().sweep, mapping={"at_ms": now_s[0] * 1000, "closed_counts_ms": 0})
        with CandidateProcess(server.url, ELECTION, **never) as second, observer(server) as election:
            eventually(lambda: len(election.candidates()) == 1)
            leader = election.leader()
            first.kill()
            assert second.term() > number
            ended = election.observe(after=leader, timeout_s=10)
            assert ended is not None
            assert ended.reason == "killed"
