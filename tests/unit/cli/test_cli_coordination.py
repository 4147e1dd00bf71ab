"""``leases``, ``elections``, ``pools`` and ``barriers``: tables for people, documents for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest

from orchestrator import BarrierBroken, Orchestrator
from orchestrator.cli.coordination.barriers import barriers
from orchestrator.cli.coordination.leases import elections, leases, pools
from orchestrator.cli.reported_errors import ExitCode
from tests.support.command_line import invoke
from tests.support.coordination_under_test import make
from tests.support.eventually import eventually


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    made = make("redis://127.0.0.1:1/0", eager=True)
    yield made
    made.app.close()


def document(orchestrator: Orchestrator, command: click.Command, *arguments: str) -> Any:
    result = invoke(orchestrator.app, command, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_what_is_not_used_is_not_listed(orchestrator: Orchestrator) -> None:
    for command, key in ((leases, "leases"), (elections, "elections"), (pools, "pools"), (barriers, "barriers")):
        assert document(orchestrator, command) == {key: []}
        assert "none" in invoke(orchestrator.app, command).stdout


def test_who_holds_what_is_shown(orchestrator: Orchestrator) -> None:
    with (
        orchestrator.monitors.session() as session,
        orchestrator.lease("close-month") as lease,
        orchestrator.pool("gpu", ["gpu0", "gpu1"]).checkout() as held,
        orchestrator.semaphore("api", 3).acquire(),
    ):
        (known,) = document(orchestrator, leases)["leases"]
        assert known["name"] == "close-month"
        assert known["waiting"] == 0
        assert (known["holder"]["owner"], known["holder"]["fence"]) == (session.id, lease.fence)
        assert known["holder"]["until_s"] is None
        pool, semaphore = document(orchestrator, pools)["pools"]
        assert (pool["name"], pool["kind"], pool["free"], pool["permits"]) == ("gpu", "pool", ["gpu1"], 2)
        assert [(one["resource"], one["fence"]) for one in pool["held"]] == [("gpu0", held.fence)]
        assert (semaphore["kind"], semaphore["permits"], len(semaphore["held"])) == ("semaphore", 3, 1)
        for command, texts in ((leases, ("close-month", session.id)), (pools, ("gpu0", "api", session.id))):
            table = invoke(orchestrator.app, command).stdout
            assert all(text in table for text in texts), table
    assert document(orchestrator, leases)["leases"][0]["holder"] is None
    assert "nobody" in invoke(orchestrator.app, pools).stdout


def test_the_last_token_of_what_nobody_holds_is_shown(orchestrator: Orchestrator) -> None:
    semaphore = orchestrator.semaphore("api", 3)
    with orchestrator.monitors.session(), orchestrator.lease("close-month") as lease, semaphore.acquire() as permit:
        pass
    for command, name, fence in ((leases, "close-month", lease.fence), (pools, "api", permit.fence)):
        (known,) = next(iter(document(orchestrator, command).values()))
        assert (known["name"], known["fence"]) == (name, fence)
        table = invoke(orchestrator.app, command).stdout
        assert "nobody" in table
        assert str(fence) in table


def test_an_election_shows_its_leader_or_why_the_last_one_has_ended(orchestrator: Orchestrator) -> None:
    election = orchestrator.election("scheduler")
    with orchestrator.monitors.session() as session, election.campaign() as led:
        (known,) = document(orchestrator, elections, "--limit", "5")["elections"]
        assert known["last_term"]["leader"] == session.id
        assert (known["last_term"]["number"], known["last_term"]["reason"]) == (led.number, None)
        assert session.id in invoke(orchestrator.app, elections).stdout
    (known,) = document(orchestrator, elections)["elections"]
    assert known["last_term"]["reason"] == "resigned"
    assert "resigned" in invoke(orchestrator.app, elections).stdout


def test_who_is_missing_at_a_barrier_is_shown(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session() as session:
        barrier = orchestrator.barrier("phase-1", ["a", "b", "c"])
        arrival = barrier.arrive("a")
        (known,) = document(orchestrator, barriers)["barriers"]
        assert (known["name"], known["arrived"], known["missing_names"]) == ("phase-1", 1, ["b", "c"])
        assert known["present"] == [{"party": "a", "since_s": known["present"][0]["since_s"], "waits_in": None}]
        assert known["due_s"] > known["present"][0]["since_s"]
        shown = invoke(orchestrator.app, barriers).stdout
        for text in ("phase-1", "1 of 3", "b, c", "breaks in"):
            assert text in shown
        barrier.reset(arrival.generation)
        assert "idle" in invoke(orchestrator.app, barriers).stdout
        barrier.reset()
        orchestrator.barrier("phase-1", 2, timeout_s=0.001).arrive(session.id)
        eventually(lambda: "broken: timeout" in invoke(orchestrator.app, barriers).stdout)
        assert document(orchestrator, barriers)["barriers"][0]["broken"] == "timeout"


def test_a_broken_barrier_is_reset(orchestrator: Orchestrator) -> None:
    with orchestrator.monitors.session() as session:
        barrier = orchestrator.barrier("phase-1", 2, timeout_s=0.001)
        generation = barrier.arrive(session.id).generation
        eventually(lambda: "broken: timeout" in invoke(orchestrator.app, barriers).stdout)
        with pytest.raises(BarrierBroken):
            barrier.arrive("other")
        assert (
            invoke(orchestrator.app, barriers, "reset", "phase-1").stdout == f"phase-1: generation {generation} reset\n"
        )
        assert orchestrator.barrier("phase-1", 2).arrive("other").generation > generation
        unknown = invoke(orchestrator.app, barriers, "reset", "phase-2")
        assert unknown.exit_code == ExitCode.CALLER
        assert "barrier 'phase-2' is not known" in unknown.stderr
