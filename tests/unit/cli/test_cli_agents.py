"""`agents`: what is concluded from a heartbeat, and who is up."""

from dataclasses import replace

import pytest

from orchestrator.agents.declaration import inspect_agent
from orchestrator.cli.agents import tables as agents_tables
from orchestrator.cli.agents.snapshot import State, known_agents, state_of
from orchestrator.cli.output.tables import Tone, Toned
from orchestrator.core.admission.breaker import Phase
from orchestrator.registry.mailboxes import MailboxState
from orchestrator.registry.registry import AgentEntry, IncarnationEntry
from tests.apps.shop import Billing

IDLE = IncarnationEntry(
    id="w1@h:1#1",
    node="w1@h",
    host="h",
    pid=1,
    agents=("billing",),
    queues=("billing",),
    started_ms=0,
    heartbeat_age_s=0.2,
    held=0,
    running=0,
    oldest_running_s=0.0,
    last_poll_s=0.5,
)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, State.IDLE),
        ({"running": 1, "held": 3}, State.BUSY),
        ({"heartbeat_age_s": 0.7}, State.LATE),
        ({"heartbeat_age_s": 0.7, "running": 1}, State.LATE),
        ({"not_polling_s": 11.0}, State.STUCK),
        # Nothing more is asked for while there is enough to do; its own heartbeat does not count that as silence.
        ({"last_poll_s": 11.0}, State.IDLE),
        ({"last_poll_s": 11.0, "held": 1, "running": 1}, State.BUSY),
    ],
)
def test_a_heartbeat_tells_the_state(changes: dict, state: State) -> None:
    assert state_of(replace(IDLE, **changes), heartbeat_timeout_s=0.6, stuck_s=10) is state


def test_an_agent_is_up_while_an_incarnation_hosts_it() -> None:
    declared = {"billing": inspect_agent(Billing)}
    announced = {
        "billing": AgentEntry("billing", "billing", ("Charge",)),
        "gone": AgentEntry("gone", "gone-mail", ("Go",)),
    }
    billing, gone = known_agents(declared, announced, [IDLE])
    assert (billing.name, billing.up, billing.declared, billing.announced) == ("billing", True, True, True)
    assert billing.messages == ("Charge", "Reconcile", "Refund")
    assert billing.incarnations == ("w1@h:1#1",)
    assert (gone.name, gone.up, gone.queue, gone.declared, gone.messages) == (
        "gone",
        False,
        "gone-mail",
        False,
        ("Go",),
    )
    (never_started,) = known_agents(declared, {}, [])
    assert (never_started.up, never_started.announced) == (False, False)


@pytest.mark.parametrize(
    ("phase", "open_for_s", "shown"),
    [
        (Phase.OPEN, 1.5, Toned("open for 1.5s", Tone.BAD)),
        (Phase.HALF_OPEN, 0.0, Toned("half-open", Tone.WARNING)),
        (Phase.CLOSED, 0.0, "closed"),
    ],
)
def test_a_breaker_is_shown_with_its_phase(phase: Phase, open_for_s: float, shown: object) -> None:
    mailbox = MailboxState("billing", breaker=phase, breaker_open_for_s=open_for_s)
    assert agents_tables._breaker_cell(mailbox) == shown


@pytest.mark.parametrize(
    ("mailbox", "shown"),
    [
        (MailboxState("billing", waiting=3), "3"),
        (MailboxState("billing", waiting=3, in_lanes=2, on_hold_for="here"), "3 (2 in lanes, on hold)"),
        (MailboxState("billing", on_hold_for="here"), "0 (on hold)"),
    ],
)
def test_what_waits_is_shown_with_why(mailbox: MailboxState, shown: str) -> None:
    assert agents_tables._waiting(mailbox) == shown
