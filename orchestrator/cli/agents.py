"""``celery -A APP agents``: agents, mailboxes, living incarnations, and the last deaths."""

from __future__ import annotations

import contextlib
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.agents_snapshot import DEATHS_READ, KnownAgent, Snapshot, state_of, take_snapshot
from orchestrator.cli.agents_tables import print_snapshot, up_or_down
from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.printable import one_line
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.errors import BrokerUnavailable, InvalidPolicy
from orchestrator.core.settings import Settings
from orchestrator.registry.mailboxes import MailboxState

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator


@click.group(name="agents", epilog=EXIT_CODES, invoke_without_command=True)
@click.option(
    "--deaths",
    "deaths_shown",
    type=click.IntRange(0, DEATHS_READ),
    default=10,
    show_default=True,
    cls=CeleryOption,
    help="Show at most this many of the last deaths.",
)
@click.option(
    "--watch",
    "interval_s",
    type=Duration(0.1, 3600),
    is_flag=False,
    flag_value=2.0,
    metavar=METAVAR,
    cls=CeleryOption,
    help="Print the tables again at this interval (2 s if none is given), until Ctrl-C.",
)
@as_json_option
@click.pass_context
@reported
def agents(context: click.Context, deaths_shown: int, interval_s: float | None, as_json: bool) -> None:
    """Show the agents, their mailboxes, their living incarnations, and the last deaths with their reasons.

    An agent without a living incarnation is down; its messages wait. Mailboxes with messages and without a living
    worker are listed on stderr.
    """
    if context.invoked_subcommand is not None:
        return
    if interval_s is not None and as_json:
        raise InvalidPolicy("--watch", interval_s, "without --json, which prints one document")
    orchestrator = orchestrator_of(context)
    settings = orchestrator.settings
    if as_json:
        print_document(_document(take_snapshot(orchestrator), deaths_shown, settings))
    elif interval_s is None:
        print_snapshot(context, take_snapshot(orchestrator), deaths_shown, settings)
    else:
        _watch(context, orchestrator, deaths_shown, interval_s)


@agents.command(cls=CeleryCommand, name="close-breaker", epilog=EXIT_CODES)
@click.argument("agent")
@click.pass_context
@reported
def close_breaker(context: click.Context, agent: str) -> None:
    """Close the circuit breaker of AGENT, so that sends go through again."""
    was_open = orchestrator_of(context).close_breaker(agent)
    click.echo(one_line(f"{agent}: breaker {'closed' if was_open else 'was closed already'}"))


def _document(seen: Snapshot, deaths_shown: int, settings: Settings) -> dict[str, Any]:
    def agent_document(agent: KnownAgent) -> dict[str, Any]:
        hosts, death = seen.hosts(agent), seen.last_death(agent)
        return {
            **asdict(agent),
            "state": up_or_down(agent),
            "held": sum(i.held for i in hosts),
            "mailbox": _mailbox_document(seen.mailbox(agent)),
            "running": sum(i.running for i in hosts),
            "last_death": asdict(death) if death is not None else None,
        }

    return {
        "agents": [agent_document(agent) for agent in seen.agents],
        "incarnations": [
            {
                **asdict(i),
                "load": round(i.load, 2),
                "state": state_of(i, settings.heartbeat_timeout_s, settings.stuck_s),
            }
            for i in seen.incarnations
        ],
        "mailboxes": [_mailbox_document(mailbox) for mailbox in seen.mailboxes],
        "deaths": [asdict(death) for death in seen.deaths[:deaths_shown]],
    }


def _mailbox_document(mailbox: MailboxState) -> dict[str, Any]:
    return {**asdict(mailbox), "unserved": mailbox.unserved}


def _watch(context: click.Context, orchestrator: Orchestrator, deaths_shown: int, interval_s: float) -> None:
    never = threading.Event()
    interrupts: list[int] = []

    def end(number: int, frame: object) -> None:
        # An exception that is raised in a destructor or weak-reference callback is lost, so record the signal too.
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    with contextlib.suppress(KeyboardInterrupt):
        while not interrupts:
            try:
                seen = take_snapshot(orchestrator)
            except BrokerUnavailable as error:
                # Keep the last tables on screen, and continue when Redis is back.
                click.echo(one_line(str(error)), err=True)
            else:
                click.clear()
                print_snapshot(context, seen, deaths_shown, orchestrator.settings)
            never.wait(interval_s)
    signal.signal(signal.SIGINT, before)
