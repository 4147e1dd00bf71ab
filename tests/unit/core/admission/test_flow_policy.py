"""What may be declared as flow control, and the breaker's transitions."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import Agent, Breaker, Dead, Mailbox, Message, Retry, handles, load_settings
from orchestrator.agents.declaration import inspect_agent
from orchestrator.core.admission.breaker import BreakerState, Phase, asked, failed, host_of, succeeded
from orchestrator.core.admission.flow_policy import Flow, Overflow
from orchestrator.core.errors import CircuitOpen, InvalidDeclaration, InvalidPolicy, InvalidSettings
from orchestrator.worker.execution.fencing_token import fence_at
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


@pytest.mark.parametrize(
    "bad",
    [
        {"failures": 0},
        {"failures": "5"},
        {"window_s": 0},
        {"open_s": -1},
        {"failure_rate": 0},
        {"failure_rate": 1.01},
        {"failure_rate": True},
        {"failure_rate": float("nan")},
        {"failure_rate": "half"},
        {"failure_rate": 0.5, "least": 0},
        {"failure_rate": 0.5, "least": 2.5},
        {"slow_s": 1},
        {"slow_rate": 0.5},
        {"slow_s": 0, "slow_rate": 0.5},
        {"slow_s": 1, "slow_rate": -0.5},
        {"probes": 0},
        {"probes": True},
        {"callers": 0},
        {"callers": 101},
    ],
)
def test_a_breaker_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidPolicy):
        Breaker(**bad)


def test_five_failures_open_a_breaker_unless_a_rate_is_given() -> None:
    assert Breaker().failures == 5
    assert Breaker(probes=2).failures == 5
    assert Breaker(failure_rate=0.5).failures is None
    assert Breaker(slow_s=1, slow_rate=0.5).failures is None
    assert Breaker(7, failure_rate=0.5).failures == 7


def test_what_a_refused_breaker_may_be_is_named() -> None:
    with pytest.raises(InvalidPolicy, match=r"failure_rate=0 is not allowed; allowed: a number above 0 and at most 1"):
        Breaker(failure_rate=0)
    with pytest.raises(InvalidPolicy, match=r"slow_rate=None is not allowed; allowed: slow_s and slow_rate together"):
        Breaker(slow_s=2)


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
    assert asked(BREAKER, state, 4_000) == (state, 0, 1_000)
    half_open, admitted, wait_ms = asked(BREAKER, state, 5_000)
    assert (half_open.phase, admitted, wait_ms) == (Phase.HALF_OPEN, 1, 0)
    assert asked(BREAKER, half_open, 6_000) == (half_open, 0, 4_000)
    assert asked(BREAKER, half_open, 10_000)[1] == 1, "a probe that was never heard of again"


def test_a_clock_set_back_does_not_hold_it_open() -> None:
    state = BreakerState(Phase.OPEN, until_ms=1_000_000)
    assert asked(BREAKER, state, 0)[1] == 1


def test_the_probe_decides() -> None:
    half_open = BreakerState(Phase.HALF_OPEN, until_ms=5_000)
    assert succeeded(BREAKER, half_open, 1_000) == BreakerState()
    assert failed(BREAKER, half_open, 1_000) == BreakerState(Phase.OPEN, until_ms=6_000)


def test_a_late_failure_does_not_prolong_it() -> None:
    state = BreakerState(Phase.OPEN, until_ms=5_000)
    assert failed(BREAKER, state, 4_000) is state
    assert succeeded(BREAKER, state, 4_000) is state


def ended(policy: Breaker, attempts: str, *, host: str = "") -> BreakerState:
    """The state after attempts, 100 ms each: ``+`` handled, ``s`` handled slowly, ``-`` failed."""
    state = BreakerState()
    for number, attempt in enumerate(attempts):
        if attempt == "-":
            state = failed(policy, state, 100 * number, host)
        else:
            state = succeeded(policy, state, 100 * number, slow=attempt == "s")
    return state


def test_a_share_of_failures_opens_it_once_enough_attempts_have_ended() -> None:
    half = Breaker(failure_rate=0.5, least=4, window_s=10)
    assert ended(half, "---").phase is Phase.CLOSED
    assert ended(half, "---+").phase is Phase.OPEN, "a handled message may be the one that makes them enough"
    assert ended(half, "--++").phase is Phase.OPEN
    assert ended(half, "-++++-+-").phase is Phase.CLOSED
    assert ended(half, "-++++-----").phase is Phase.OPEN


def test_a_rate_forgets_what_lies_before_the_window() -> None:
    half = Breaker(failure_rate=0.5, least=4, window_s=10)
    state = ended(half, "---")
    assert failed(half, state, 9_999).phase is Phase.OPEN
    assert failed(half, state, 10_000).phase is Phase.CLOSED


def test_a_share_of_slow_calls_opens_it() -> None:
    slow = Breaker(slow_s=1, slow_rate=0.75, least=4, window_s=10, callers=3)
    assert ended(slow, "sss+").phase is Phase.OPEN, "whoever sent them"
    assert ended(slow, "ss-+").phase is Phase.CLOSED
    assert succeeded(slow, BreakerState(Phase.HALF_OPEN), 0, slow=True).phase is Phase.OPEN


def test_it_closes_once_all_probes_are_handled() -> None:
    three = Breaker(1, window_s=10, open_s=5, probes=3)
    state = failed(three, BreakerState(), 0)
    state, admitted, wait_ms = asked(three, state, 5_000, 2)
    assert (admitted, wait_ms) == (2, 0)
    state, admitted, wait_ms = asked(three, state, 6_000, 2)
    assert (admitted, wait_ms) == (1, 4_000)
    assert asked(three, state, 7_000) == (state, 0, 3_000)
    state = succeeded(three, succeeded(three, state, 8_000), 8_000)
    assert state.phase is Phase.HALF_OPEN
    assert failed(three, state, 9_000).phase is Phase.OPEN
    # The third was never heard of again.
    state, admitted, _ = asked(three, state, 10_000)
    assert admitted == 1
    assert succeeded(three, state, 10_500) == BreakerState()


def test_one_caller_alone_opens_it_for_nobody() -> None:
    two = Breaker(2, window_s=10, callers=2)
    state = ended(two, "-" * 50, host="web-1")
    assert state.phase is Phase.CLOSED
    assert len(state.failed_ms) == 2, "its memory is bounded"
    assert failed(two, state, 5_000, "web-2").phase is Phase.OPEN
    assert failed(two, state, 20_000, "web-2").phase is Phase.CLOSED, "the other's failures are too old"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("gen1@web-1", "web-1"),
        ("web-1", ""),
        (None, ""),
        (7, ""),
        ("@", ""),
        ("a@b@c d\n", "b@c_d_"),
        ("a@" + "é" * 99, "_" * 64),
    ],
)
def test_the_callers_host_is_in_the_origin_of_its_message(origin: object, host: str) -> None:
    assert host_of(origin) == host


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
