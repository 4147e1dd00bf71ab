"""``celery -A APP agents``: agents, mailboxes, living incarnations, and the last deaths."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.cli.agents.snapshot import DEATHS_READ, KnownAgent, Snapshot, state_of, take_snapshot
from orchestrator.cli.agents.tables import print_snapshot, up_or_down
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.output.documents import as_json_option, print_document
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.output.watching import refuse_json, watch, watch_option
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.settings import Settings
from orchestrator.registry.mailboxes import MailboxState
from orchestrator.registry.registry import differing_limits


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
@watch_option("Ctrl-C")
@as_json_option
@click.pass_context
@reported
def agents(context: click.Context, deaths_shown: int, interval_s: float | None, as_json: bool) -> None:
    """Show the agents, their mailboxes, their living incarnations, and the last deaths with their reasons.

    An agent without a living incarnation is down; its messages wait. Mailboxes with messages and without a living
    worker are listed on stderr, and so are limits that living workers of an agent declare differently.
    """
    if context.invoked_subcommand is not None:
        return
    refuse_json(interval_s, as_json)
    orchestrator = orchestrator_of(context)
    settings = orchestrator.settings
    if as_json:
        print_document(_document(take_snapshot(orchestrator), deaths_shown, settings))
    elif interval_s is None:
        print_snapshot(context, take_snapshot(orchestrator), deaths_shown, settings)
    else:
        watch(
            interval_s,
            lambda: take_snapshot(orchestrator),
            lambda seen: print_snapshot(context, seen, deaths_shown, settings),
            lambda seen: False,
        )


@agents.command(cls=CeleryCommand, name="close-breaker", epilog=EXIT_CODES)
@click.argument("agent")
@click.pass_context
@reported
def close_breaker(context: click.Context, agent: str) -> None:
    """Close the circuit breaker of AGENT, so that sends go through again."""
    was_open = orchestrator_of(context).breakers.close(agent)
    click.echo(one_line(f"{agent}: breaker {'closed' if was_open else 'was closed already'}"))


@agents.command(cls=CeleryCommand, name="isolate-breaker", epilog=EXIT_CODES)
@click.argument("agent")
@click.option("--why", required=True, cls=CeleryOption, help="Shown to refused senders and in `agents`.")
@click.pass_context
@reported
def isolate_breaker(context: click.Context, agent: str, why: str) -> None:
    """Refuse sends to AGENT until its circuit breaker is closed with close-breaker."""
    was_not = orchestrator_of(context).breakers.isolate(agent, why=why)
    click.echo(
        one_line(f"{agent}: breaker {'isolated' if was_not else 'was isolated already; its reason is replaced'}")
    )


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
        "differing_limits": [asdict(difference) for difference in differing_limits(seen.incarnations)],
        "deaths": [asdict(death) for death in seen.deaths[:deaths_shown]],
    }


def _mailbox_document(mailbox: MailboxState) -> dict[str, Any]:
    return {**asdict(mailbox), "unserved": mailbox.unserved}
