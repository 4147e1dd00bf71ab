"""``celery -A APP agents``: who is known, who is alive, who has died of what."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.agents.agent import AgentSpec
from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.printable import one_line
from orchestrator.cli.reported_errors import EXIT_CODES, reported
from orchestrator.core.breaker import Phase
from orchestrator.core.errors import BrokerUnavailable, InvalidPolicy
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.plural import counted
from orchestrator.core.settings import Settings
from orchestrator.core.times import age, moment
from orchestrator.maintenance.unserved import describe_unserved, unserved_of
from orchestrator.registry.mailboxes import MailboxState, read_mailboxes
from orchestrator.registry.registry import AgentEntry, Death, IncarnationEntry

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator
    from orchestrator.cli.tables import Cell, Toned

#: Deaths that are read; an agent's last one is looked for among them.
_DEATHS_READ = 1000


class State(StrEnum):
    """What an incarnation is doing, as far as its heartbeat tells."""

    IDLE = "idle"
    BUSY = "busy"
    #: Its heartbeat is late: the next sweep looks whether it is dead.
    LATE = "late"
    #: It beats, has a free hand, and does not ask for messages: dead as soon as some wait for it.
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class KnownAgent:
    """An agent declared by the app or announced by a worker. It is up while an incarnation hosts it."""

    name: str
    queue: str
    messages: tuple[str, ...]
    declared: bool
    announced: bool
    incarnations: tuple[str, ...]

    @property
    def up(self) -> bool:
        """Whether a living incarnation hosts it."""
        return bool(self.incarnations)


def state_of(incarnation: IncarnationEntry, suspect_s: float, stuck_s: float) -> State:
    """What an incarnation is doing."""
    if incarnation.heartbeat_age_s > suspect_s:
        return State.LATE
    if incarnation.silent_s > stuck_s:
        return State.STUCK
    if incarnation.running:
        return State.BUSY
    return State.IDLE


def known_agents(
    declared: Mapping[str, AgentSpec], announced: Mapping[str, AgentEntry], incarnations: Sequence[IncarnationEntry]
) -> list[KnownAgent]:
    """Every agent that is declared or was ever announced, by name."""
    known = []
    for name in sorted({*declared, *announced}):
        if name in declared:
            queue, messages = declared[name].queue, tuple(sorted(declared[name].handlers))
        else:
            queue, messages = announced[name].queue, announced[name].messages
        hosts = tuple(i.id for i in incarnations if name in i.agents)
        known.append(KnownAgent(name, queue, messages, name in declared, name in announced, hosts))
    return known


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is shown at once."""

    agents: list[KnownAgent]
    incarnations: list[IncarnationEntry]
    deaths: list[Death]
    mailboxes: list[MailboxState]

    def mailbox(self, agent: KnownAgent) -> MailboxState:
        """The state of an agent's mailbox."""
        return next((one for one in self.mailboxes if one.queue == agent.queue), MailboxState(agent.queue))

    def hosts(self, agent: KnownAgent) -> list[IncarnationEntry]:
        """The living incarnations that host an agent."""
        return [i for i in self.incarnations if i.id in agent.incarnations]

    def last_death(self, agent: KnownAgent) -> Death | None:
        """The last death of a host of an agent, as far back as the record was read."""
        return next((death for death in self.deaths if agent.name in death.agents), None)


def take_snapshot(orchestrator: Orchestrator) -> Snapshot:
    """Read the registry.

    Raises:
        BrokerUnavailable: Redis is away.
    """
    incarnations = orchestrator.registry.incarnations()
    known = known_agents(orchestrator.agents, orchestrator.registry.agents(), incarnations)
    mailboxes = read_mailboxes(orchestrator.store, incarnations)
    return Snapshot(known, incarnations, orchestrator.registry.deaths(_DEATHS_READ), mailboxes)


@click.group(name="agents", epilog=EXIT_CODES, invoke_without_command=True)
@click.option(
    "--deaths",
    "deaths_shown",
    type=click.IntRange(0, _DEATHS_READ),
    default=10,
    show_default=True,
    cls=CeleryOption,
    help="How many of the last deaths are shown.",
)
@click.option(
    "--watch",
    "every_s",
    type=Duration(0.1, 3600),
    is_flag=False,
    flag_value=2.0,
    metavar=METAVAR,
    cls=CeleryOption,
    help="Show it again every so often (2 s if no number is given), until Ctrl-C.",
)
@as_json_option
@click.pass_context
@reported
def agents(context: click.Context, deaths_shown: int, every_s: float | None, as_json: bool) -> None:
    """Show the agents, their mailboxes, their living incarnations, and the last deaths with their reasons.

    An agent without a living incarnation is down; its mail waits. A mailbox that has mail and that nobody serves is
    warned of on stderr.
    """
    if context.invoked_subcommand is not None:
        return
    if every_s is not None and as_json:
        raise InvalidPolicy("--watch", every_s, "without --json, which prints one document")
    orchestrator = orchestrator_of(context)
    settings = orchestrator.settings
    if as_json:
        print_document(_document(take_snapshot(orchestrator), deaths_shown, settings))
    elif every_s is None:
        _show(context, take_snapshot(orchestrator), deaths_shown, settings)
    else:
        _watch(context, orchestrator, deaths_shown, every_s)


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
            "state": _up(agent),
            "held": sum(i.held for i in hosts),
            "mailbox": _mailbox_document(seen.mailbox(agent)),
            "running": sum(i.running for i in hosts),
            "last_death": asdict(death) if death is not None else None,
        }

    return {
        "agents": [agent_document(agent) for agent in seen.agents],
        "incarnations": [
            {**asdict(i), "load": round(i.load, 2), "state": state_of(i, settings.suspect_s, settings.stuck_s)}
            for i in seen.incarnations
        ],
        "mailboxes": [_mailbox_document(mailbox) for mailbox in seen.mailboxes],
        "deaths": [asdict(death) for death in seen.deaths[:deaths_shown]],
    }


def _mailbox_document(mailbox: MailboxState) -> dict[str, Any]:
    return {**asdict(mailbox), "unserved": mailbox.unserved}


def _watch(context: click.Context, orchestrator: Orchestrator, deaths_shown: int, every_s: float) -> None:
    never = threading.Event()
    told: list[int] = []

    def end(number: int, frame: object) -> None:
        # What is raised in somebody's weak reference or destructor is swallowed there; what is noted is not.
        told.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    with contextlib.suppress(KeyboardInterrupt):
        while not told:
            try:
                seen = take_snapshot(orchestrator)
            except BrokerUnavailable as error:
                # It is watched all the more while Redis is away; what was last shown stays.
                click.echo(one_line(str(error)), err=True)
            else:
                click.clear()
                _show(context, seen, deaths_shown, orchestrator.settings)
            never.wait(every_s)
    signal.signal(signal.SIGINT, before)


def _show(context: click.Context, seen: Snapshot, deaths_shown: int, settings: Settings) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_table

    out = console(context)
    print_table(
        out,
        "Agents",
        ("agent", "state", "incarnations", "waiting", "in flight", "breaker", "last death", "mailbox", "messages"),
        [
            (
                a.name,
                _toned(_up(a)),
                len(a.incarnations),
                seen.mailbox(a).waiting,
                sum(i.held for i in seen.hosts(a)),
                _breaker(seen.mailbox(a)),
                _died(seen.last_death(a)),
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
                _toned(state_of(i, settings.suspect_s, settings.stuck_s)),
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
                m.waiting,
                "" if m.oldest_waiting_s is None else age(m.oldest_waiting_s),
                m.held,
                m.delayed,
                "" if m.limit is None else f"{m.limit} {m.overflow}",
                _breaker(m),
                _served(m),
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


def _breaker(mailbox: MailboxState) -> Cell:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import Tone, Toned

    match mailbox.breaker:
        case Phase.OPEN:
            return Toned(f"open for {age(mailbox.breaker_open_for_s)}", Tone.BAD)
        case Phase.HALF_OPEN:
            return Toned("half-open", Tone.WARNING)
        case Phase.CLOSED:
            return "closed"
        case _:
            return ""


def _served(mailbox: MailboxState) -> Cell:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import Tone, Toned

    if mailbox.served_by:
        return counted(len(mailbox.served_by), "worker")
    return Toned("nobody", Tone.BAD) if mailbox.unserved else "nobody"


def _toned(state: str) -> Toned:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import Tone, Toned

    match state:
        case "up" | State.IDLE | State.BUSY:
            return Toned(state, Tone.GOOD)
        case State.LATE:
            return Toned(state, Tone.WARNING)
        case _:
            return Toned(state, Tone.BAD)


def _up(agent: KnownAgent) -> str:
    return "up" if agent.up else "down"


def _died(death: Death | None) -> str:
    return f"{death.reason} {moment(death.at_ms)}" if death is not None else ""
