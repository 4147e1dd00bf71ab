"""Names given to `dead-letters` as a filter: an unknown name is an error, not an empty result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.output.printable import one_line
from orchestrator.core.deliveries.outcome import Reason
from orchestrator.core.errors import InvalidPolicy, UnknownAgent
from orchestrator.core.spelling.nearest import meant

if TYPE_CHECKING:
    from orchestrator.app import Orchestrator

#: Values of an index that are looked through.
_LOOKED_AT = 10_000


def check_names(orchestrator: Orchestrator, options: Mapping[str, Any]) -> None:
    """Refuse a reason, agent or message that is unknown to this app, to the workers and to the letters.

    Of an error it cannot be known what there is; it is only said that no letter has it.

    Raises:
        InvalidPolicy: the reason or the message is unknown.
        UnknownAgent: the agent is unknown.
        BrokerUnavailable: Redis is away.
    """
    reason, agent, message, error = (options[name] for name in ("reason", "agent", "message", "error"))
    if reason is not None and not _has(orchestrator, "reason", reason) and reason not in set(Reason):
        raise InvalidPolicy("reason", reason, ", ".join(Reason) + meant(reason, Reason))
    announced = {} if orchestrator.eager or not (agent or message) else orchestrator.registry.agents()
    if agent is not None and not _has(orchestrator, "agent", agent):
        known = {*orchestrator.agents, *announced}
        if agent not in known:
            raise UnknownAgent(agent, {*known, *_values(orchestrator, "agent")})
    if message is not None and not _has(orchestrator, "message", message):
        known = {*_messages(orchestrator), *(name for entry in announced.values() for name in entry.messages)}
        if message not in known:
            known |= {*_values(orchestrator, "message")}
            raise InvalidPolicy("message", message, f"a message or task that is known here{meant(message, known)}")
    if error is not None and not _has(orchestrator, "error", error):
        near = meant(error, _values(orchestrator, "error"))
        click.echo(one_line(f"No dead letter has the error {error!r}{near}"), err=True)


def _messages(orchestrator: Orchestrator) -> Iterator[str]:
    for spec in orchestrator.agents.values():
        yield from spec.handlers
        yield "on_down"
    yield from (name for name in orchestrator.app.tasks if not name.startswith(("celery.", "orchestrator.")))


def _has(orchestrator: Orchestrator, dimension: str, value: str) -> bool:
    return bool(value) and orchestrator.dead_letters.store.size_of([(dimension, value)]) > 0


def _values(orchestrator: Orchestrator, dimension: str) -> Iterable[str]:
    return islice(orchestrator.dead_letters.store.values(dimension), _LOOKED_AT)
