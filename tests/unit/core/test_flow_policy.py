"""What may be declared as flow control, and the breaker's transitions."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Agent, Breaker, Dead, Mailbox, Message, Retry, handles, load_settings
from orchestrator.agents.agent import inspect_agent
from orchestrator.core.breaker import BreakerState, Phase, asked, failed, succeeded
from orchestrator.core.errors import CircuitOpen, InvalidDeclaration, InvalidPolicy, InvalidSettings
from orchestrator.core.flow_policy import Flow, Overflow
from orchestrator.worker.fencing_token import fence_at
from tests.apps import flow_app


@pytest.mark.parametrize(
    "bad",
    [
        {"limit": 0},
        {"limit": 1.5},
        {"limit": 5, "overflow": "explode"},
        {"limit": 5, "block_s": 0},
        {"limit": 5, "warn_at": 0},
        {"limit": 5, "warn_at": 1.1},
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidPolicy):
        Mailbox(**bad)
    with pytest.raises(InvalidSettings, match="mailboxes"):
        load_settings(mailboxes={"billing": bad})


def test_a_truth_is_no_number() -> None:
    with pytest.raises(InvalidPolicy):
        Mailbox(limit=True)


@pytest.mark.parametrize("bad", [{"failures": 0}, {"failures": "5"}, {"window_s": 0}, {"open_s": -1}])
def test_a_breaker_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidPolicy):
        Breaker(**bad)


def test_settings_hold_flow_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_MAILBOXES", '{"billing-*": {"limit": 9, "overflow": "block"}}')
    settings = load_settings(breakers={"*": {"failures": 3}})
    assert settings.mailboxes == {"billing-*": Mailbox(9, Overflow.BLOCK)}
    assert settings.breakers == {"*": Breaker(3)}


def test_an_agent_declares_it() -> None:
    class Ping(Message):
        pass

    class Pinged(Agent):
        name = "pinged"
        mailbox = Mailbox(5)
        breaker = Breaker()

        @handles(Ping)
        def ping(self, message: Ping) -> None: ...

    assert inspect_agent(Pinged).flow == Flow(Mailbox(5), Breaker())
    Pinged.mailbox = 5  # type: ignore[assignment]
    with pytest.raises(InvalidDeclaration, match="mailbox=5"):
        inspect_agent(Pinged)


BREAKER = Breaker(failures=2, window_s=10, open_s=5)


def test_failures_far_apart_do_not_open_it() -> None:
    state = failed(BREAKER, BreakerState(), 0)
    assert failed(BREAKER, state, 10_000).phase is Phase.CLOSED
    assert failed(BREAKER, state, 9_999).phase is Phase.OPEN


def test_one_probe_at_a_time() -> None:
    state = BreakerState(Phase.OPEN, until_ms=5_000)
    assert asked(BREAKER, state, 4_000) == (state, 1_000)
    half_open, wait_ms = asked(BREAKER, state, 5_000)
    assert (half_open.phase, wait_ms) == (Phase.HALF_OPEN, 0)
    assert asked(BREAKER, half_open, 6_000) == (half_open, 4_000)
    assert asked(BREAKER, half_open, 10_000)[1] == 0, "a probe that was never heard of again"


def test_a_clock_set_back_does_not_hold_it_open() -> None:
    state = BreakerState(Phase.OPEN, until_ms=1_000_000)
    assert asked(BREAKER, state, 0)[1] == 0


def test_the_probe_decides() -> None:
    half_open = BreakerState(Phase.HALF_OPEN, until_ms=5_000)
    assert succeeded(half_open) == BreakerState()
    assert failed(BREAKER, half_open, 1_000) == BreakerState(Phase.OPEN, until_ms=6_000)


def test_a_late_failure_does_not_prolong_it() -> None:
    state = BreakerState(Phase.OPEN, until_ms=5_000)
    assert failed(BREAKER, state, 4_000) is state
    assert succeeded(state) is state


def test_a_fencing_token_is_the_entrys_place() -> None:
    assert fence_at("1-0@s") < fence_at("1-1@s") < fence_at("2-0@t")
    assert fence_at("nonsense") == 0


def test_a_pattern_for_all_agents_gives_no_breaker_to_plain_tasks_in_eager_mode() -> None:
    orchestrator = flow_app.make("redis://127.0.0.1:1/0", eager=True, breakers={"*": {"failures": 1}})

    def fail() -> None:
        raise ValueError("plain")

    task = orchestrator.app.task(fail, name="plain", shared=False)
    for _ in range(2):
        assert isinstance(orchestrator.send(task, retry=Retry(max_retries=0)).outcome(), Dead)
    orchestrator.send("eu", flow_app.Work(fails=True))
    with pytest.raises(CircuitOpen):
        orchestrator.send("eu", flow_app.Work())
