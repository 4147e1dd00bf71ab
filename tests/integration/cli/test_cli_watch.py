"""Commands on a terminal: tables fit it, states have colours, and `agents --watch` is drawn anew until Ctrl-C."""

from __future__ import annotations

import os
import signal

import click
import pytest

from orchestrator import Orchestrator
from orchestrator.transport.redis import commands
from orchestrator.workflows.definition import Workflow
from tests.apps.shop import make
from tests.support.terminal import CLEAR, Terminal


def join(shop: Orchestrator) -> None:
    """Register an incarnation that hosts the agent."""
    store, name = shop.runtime.store, "billing@a-host-of-the-shop.example.com:4711"
    fields = {"node": "w1", "queues": '["billing"]', "agents": '["billing"]', "pool": "prefork", "concurrency": "4"}
    store.run(*commands.register(store.keys, name, fields))


@pytest.mark.timeout(150)
def test_agents_are_drawn_anew_until_ctrl_c(redis_url: str) -> None:
    shop = make(redis_url)
    terminal = Terminal(redis_url, "agents", "--watch", "0.1")
    try:
        terminal.until(CLEAR)
        assert b"billing@a-host" not in terminal.until(CLEAR)
        join(shop)
        terminal.until(b"billing@a-host-of-the-shop.example.com:4711#")
        # It goes on by itself, on a cleared screen, and shows the same once more.
        terminal.until(CLEAR)
        terminal.until(b"billing@a-host-of-the-shop.example.com:4711#")
        os.kill(terminal.process.pid, signal.SIGINT)
        terminal.read_out()
        assert terminal.process.wait(timeout=30) == 0
    finally:
        terminal.close()


def test_at_80_columns_what_matters_of_agents_is_there_and_the_rest_is_named(redis_url: str) -> None:
    join(make(redis_url))
    terminal = Terminal(redis_url, "agents", columns=80)
    try:
        shown = click.unstyle(terminal.text())
    finally:
        terminal.close()
    assert all(len(line) <= 80 for line in shown.splitlines() if "No room for" not in line)
    agents, incarnations, _ = shown.split("\n\n", 2)
    assert all(name in agents.splitlines()[1] for name in ("agent", "state", "incarnations", "in flight"))
    assert "billing@a-host-of-the-shop.example.com:4711#" in incarnations
    assert all(name in incarnations.splitlines()[1] for name in ("state", "heartbeat"))
    assert "No room for: " in incarnations
    assert "version" in incarnations.splitlines()[-1]


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_states_have_colours_unless_the_user_wants_none(
    redis_url: str, environment: dict[str, str], coloured: bool
) -> None:
    terminal = Terminal(redis_url, "agents", environment=environment)
    try:
        shown = terminal.text()
    finally:
        terminal.close()
    assert "billing" in shown
    assert ("\x1b[31mdown\x1b[0m" in shown) is coloured
    assert ("\x1b" in shown) is coloured


@pytest.mark.timeout(150)
def test_a_run_is_drawn_anew_until_it_has_ended(redis_url: str) -> None:
    shop = make(redis_url)
    flow = Workflow("approval")
    flow.wait("approval-of-a-manager-whose-name-is-long", event="approved")
    run = shop.workflows.start(flow, workflow_id="a-run-with-an-id-of-some-length")
    terminal = Terminal(redis_url, "workflows", "show", run.id, "--watch", "0.1", columns=80)
    try:
        terminal.until(CLEAR)
        shown = click.unstyle(terminal.until(CLEAR).decode())
        assert "suspended" in shown
        assert all(len(line) <= 80 for line in shown.splitlines())
        run.post("approved")
        assert "completed" in terminal.text()
    finally:
        terminal.close()
