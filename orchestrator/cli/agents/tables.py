"""The tables of ``celery -A APP agents``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.agents.snapshot import KnownAgent, Snapshot, State, state_of
from orchestrator.cli.output.printable import one_line
from orchestrator.core.admission.breaker import Phase
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.plural import counted
from orchestrator.core.settings import Settings
from orchestrator.core.times import age, moment
from orchestrator.maintenance.unserved import describe_unserved, unserved_of
from orchestrator.registry.mailboxes import MailboxState
from orchestrator.registry.registry import Death, differing_limits

if TYPE_CHECKING:
    from orchestrator.cli.output.tables import Cell, Toned


def print_snapshot(context: click.Context, seen: Snapshot, deaths_shown: int, settings: Settings) -> None:
    """Print the tables, and on stderr a warning for each mailbox without a living worker, and each differing limit."""
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import console, print_table

    out = console(context)
    print_table(
        out,
        "Agents",
        ("agent", "state", "incarnations", "waiting", "in flight", "breaker", "last death", "mailbox", "messages"),
        [
            (
                a.name,
                _state_cell(up_or_down(a)),
                len(a.incarnations),
                seen.mailbox(a).waiting,
                sum(i.held for i in seen.hosts(a)),
                _breaker_cell(seen.mailbox(a)),
                _death_cell(seen.last_death(a)),
                a.queue,
                ", ".join(a.messages),
            )
            for a in seen.agents
        ],
        fold=("messages",),
        drop=("messages", "mailbox", "last death"),
    )
    print_table(
        out,
        "Living incarnations",
        ("incarnation", "state", "heartbeat", "up", "agents", "queues", "pool", "held", "running", "oldest", "version"),
        [
            (
                i.id,
                _state_cell(state_of(i, settings.heartbeat_timeout_s, settings.stuck_s)),
                age(i.heartbeat_age_s),
                moment(i.started_ms),
                ", ".join(i.agents),
                ", ".join(i.queues),
                f"{i.pool} {i.concurrency}" if i.pool else "",
                i.held,
                i.running,
                age(i.oldest_running_s) if i.running else "",
                i.app_version,
            )
            for i in seen.incarnations
        ],
        fold=("agents", "queues"),
        drop=("version", "pool", "up", "queues", "oldest", "held", "running", "agents"),
    )
    print_table(
        out,
        "Mailboxes",
        ("mailbox", "waiting", "oldest", "held", "delayed", "bound", "breaker", "served by"),
        [
            (
                m.queue,
                _waiting(m),
                "" if m.oldest_waiting_s is None else age(m.oldest_waiting_s),
                m.held,
                m.delayed,
                "" if m.limit is None else f"{m.limit} {m.overflow}",
                _breaker_cell(m),
                _served_cell(m),
            )
            for m in seen.mailboxes
            if m.queue != HOUSEKEEPING_QUEUE
        ],
        drop=("bound", "delayed", "held"),
    )
    print_table(
        out,
        "Last deaths",
        ("incarnation", "reason", "when", "found by", "error"),
        [(d.incarnation, d.reason, moment(d.at_ms), d.by, d.error) for d in seen.deaths[:deaths_shown]],
        fold=("error",),
        drop=("found by",),
    )
    for mailbox in unserved_of(seen.mailboxes):
        click.echo(one_line(f"Warning: {describe_unserved(mailbox)}"), err=True)
    for difference in differing_limits(seen.incarnations):
        click.echo(one_line(f"Warning: {difference}"), err=True)


def _waiting(m: MailboxState) -> str:
    more = [f"{count} {where}" for count, where in ((m.deferred, "deferred"), (m.in_lanes, "in lanes")) if count]
    if m.on_hold_for:
        more.append("on hold")
    return f"{m.waiting} ({', '.join(more)})" if more else str(m.waiting)


def _breaker_cell(mailbox: MailboxState) -> Cell:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import Tone, Toned

    match mailbox.breaker:
        case Phase.OPEN:
            return Toned(f"open for {age(mailbox.breaker_open_for_s)}", Tone.BAD)
        case Phase.ISOLATED:
            return Toned(f"isolated: {one_line(mailbox.breaker_isolated)}", Tone.BAD)
        case Phase.HALF_OPEN:
            return Toned("half-open", Tone.WARNING)
        case Phase.CLOSED:
            return "closed"
        case _:
            return ""


def _served_cell(mailbox: MailboxState) -> Cell:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import Tone, Toned

    if mailbox.served_by:
        return counted(len(mailbox.served_by), "worker")
    return Toned("nobody", Tone.BAD) if mailbox.unserved else "nobody"


def _state_cell(state: str) -> Toned:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.output.tables import Tone, Toned

    match state:
        case "up" | State.IDLE | State.BUSY:
            return Toned(state, Tone.GOOD)
        case State.LATE:
            return Toned(state, Tone.WARNING)
        case _:
            return Toned(state, Tone.BAD)


def up_or_down(agent: KnownAgent) -> str:
    """Whether a living incarnation hosts the agent."""
    return "up" if agent.up else "down"


def _death_cell(death: Death | None) -> str:
    return f"{death.reason} {moment(death.at_ms)}" if death is not None else ""
