"""``celery -A APP agents``: who is known, who is alive, who has died of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import click
from celery.bin.base import CeleryCommand, CeleryOption

from orchestrator.agents.agent import AgentSpec
from orchestrator.cli.documents import as_json_option, print_document
from orchestrator.cli.errors import EXIT_CODES, reported
from orchestrator.cli.loaded import orchestrator_of
from orchestrator.cli.printable import age, moment
from orchestrator.registry.agents import AgentEntry, Death, IncarnationEntry

#: A free worker asks for messages about every second; one that has not for this long no longer consumes.
_STUCK_S = 10.0


class State(StrEnum):
    """What an incarnation is doing, as far as its heartbeat tells."""

    IDLE = "idle"
    BUSY = "busy"
    #: Its heartbeat is late: the next sweep looks whether it is dead.
    LATE = "late"
    #: It beats, has nothing to do, and does not ask for anything.
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


def state_of(incarnation: IncarnationEntry, suspect_s: float) -> State:
    """What an incarnation is doing."""
    if incarnation.heartbeat_age_s > suspect_s:
        return State.LATE
    if incarnation.running:
        return State.BUSY
    if not incarnation.held and incarnation.last_poll_s > _STUCK_S:
        return State.STUCK
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


@click.command(cls=CeleryCommand, name="agents", epilog=EXIT_CODES)
@click.option(
    "--deaths",
    "deaths_shown",
    type=click.IntRange(0, 1000),
    default=10,
    show_default=True,
    cls=CeleryOption,
    help="How many of the last deaths are shown.",
)
@as_json_option
@click.pass_context
@reported
def agents(context: click.Context, deaths_shown: int, as_json: bool) -> None:
    """Show the agents, their living incarnations, and the last deaths with their reasons.

    An agent without a living incarnation is down; its mail waits.
    """
    orchestrator = orchestrator_of(context)
    incarnations = orchestrator.registry.incarnations()
    deaths = orchestrator.registry.deaths(deaths_shown) if deaths_shown else []
    known = known_agents(orchestrator.agents, orchestrator.registry.agents(), incarnations)
    suspect_s = orchestrator.settings.suspect_s
    if as_json:
        print_document(
            {
                "agents": [{**asdict(agent), "state": _up(agent)} for agent in known],
                "incarnations": [{**asdict(i), "state": state_of(i, suspect_s)} for i in incarnations],
                "deaths": [asdict(death) for death in deaths],
            }
        )
        return
    _show(context, known, incarnations, deaths, suspect_s)


def _show(
    context: click.Context,
    known: list[KnownAgent],
    incarnations: list[IncarnationEntry],
    deaths: list[Death],
    suspect_s: float,
) -> None:
    # Here, so that `celery worker` does not load it.
    from orchestrator.cli.tables import console, print_table

    out = console(context)
    print_table(
        out,
        "Agents",
        ("agent", "state", "incarnations", "mailbox", "messages"),
        [(a.name, _up(a), len(a.incarnations), a.queue, ", ".join(a.messages)) for a in known],
        fold=("messages",),
    )
    print_table(
        out,
        "Living incarnations",
        ("incarnation", "state", "heartbeat", "agents", "queues", "held", "running", "oldest"),
        [
            (
                i.id,
                state_of(i, suspect_s),
                age(i.heartbeat_age_s),
                ", ".join(i.agents),
                ", ".join(i.queues),
                i.held,
                i.running,
                age(i.oldest_running_s) if i.running else "",
            )
            for i in incarnations
        ],
        fold=("agents", "queues"),
    )
    print_table(
        out,
        "Last deaths",
        ("incarnation", "reason", "when", "found by"),
        [(d.incarnation, d.reason, moment(d.at_ms), d.by) for d in deaths],
    )


def _up(agent: KnownAgent) -> str:
    return "up" if agent.up else "down"
