"""Names that anybody with access to Redis can plant reach a terminal neither as control characters nor as lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click import Command
from redis import Redis

from orchestrator import Orchestrator
from orchestrator.cli.agents import agents
from orchestrator.cli.dead_letters import dead_letters
from orchestrator.cli.ledger import ledger
from orchestrator.cli.monitors import monitors
from orchestrator.cli.policies import policies
from orchestrator.core.keys import Keys
from orchestrator.registry.agents import AgentEntry
from tests.apps import agents_app
from tests.command_line import invoke

FORGED = "evil\x1b[2J\nFORGED line\r\u202e"

COMMANDS: dict[str, tuple[Command, tuple[str, ...]]] = {
    "policies": (policies, ()),
    "policies of it": (policies, (FORGED,)),
    "policies of another": (policies, ("nobody",)),
    "agents": (agents, ()),
    "ledger": (ledger, ()),
    "letters": (dead_letters, ("list",)),
    "groups": (dead_letters, ("groups",)),
    "letters of it": (dead_letters, ("list", "--agent", FORGED)),
    "monitors": (monitors, ("list",)),
    "leaks": (monitors, ("leaks",)),
}


@pytest.fixture
def planted(redis_url: str) -> Iterator[Orchestrator]:
    orchestrator = agents_app.make(redis_url)
    policy = {FORGED: [{"timeout_s": 5}, {"deadline_s": 1}]}
    orchestrator.registry.announce([AgentEntry(FORGED, FORGED, (FORGED,), policy)])
    keys = Keys("")
    with Redis.from_url(redis_url) as client:
        fields = {
            "node": FORGED,
            "host": FORGED,
            "pid": 1,
            "agents": json.dumps([FORGED]),
            "queues": json.dumps([FORGED]),
        }
        client.zadd(keys.leases, {FORGED: client.time()[0] * 1000})
        client.hset(keys.incarnation(FORGED), mapping={**fields, "started_ms": 1, "app_version": FORGED})
        client.xadd(keys.deaths, {**fields, "incarnation": FORGED, "reason": FORGED, "by": FORGED, "error": FORGED})
        client.sadd(keys.queues, FORGED)
    yield orchestrator
    orchestrator.app.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_planted_name_is_shown_as_a_part_of_one_line(planted: Orchestrator, name: str) -> None:
    command, arguments = COMMANDS[name]
    result = invoke(planted.app, command, *arguments)
    shown = result.stdout + result.stderr
    assert shown
    assert not {"\x1b", "\r", "\u202e"} & set(shown)
    assert not any(line.startswith("FORGED") for line in shown.splitlines())
