"""``orchestrator.breakers``: shows agents' circuit breakers; isolates and closes them by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Protocol, TypeVar

from orchestrator.agents.agent import Agent
from orchestrator.core.admission.breaker import BreakerStatus
from orchestrator.core.checks.text import is_text
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.spelling.option_names import named_arguments

_T = TypeVar("_T")

#: The longest reason of an isolation, in characters.
_LONGEST_WHY: Final = 500


class BreakerBackend(Protocol):
    """The breakers of one mode: in Redis, or in eager mode in memory.

    Each method raises :class:`UnknownAgent` for an agent that was neither declared here nor announced by any worker,
    and :class:`BrokerUnavailable` if Redis is away.
    """

    def statuses(self, agents: Iterable[str]) -> Mapping[str, BreakerStatus]:
        """The statuses of these agents' breakers; agents without a breaker are left out."""

    def close(self, agent: str) -> bool | None:
        """Close an agent's breaker. Returns whether it was not closed; ``None`` if it has none."""

    def isolate(self, agent: str, why: str) -> bool | None:
        """Isolate an agent's breaker. Returns whether it was not isolated; ``None`` if it has none."""


@named_arguments
class Breakers:
    """The circuit breakers of the agents that are declared here or announced by workers.

    Each of its methods raises :class:`UnknownAgent` for an agent that nobody knows, :class:`InvalidPolicy` for one
    without a circuit breaker, and :class:`BrokerUnavailable` if Redis is away.
    """

    def __init__(self, backend: Callable[[], BreakerBackend], known: Callable[[], Collection[str]]) -> None:
        self._backend = backend
        self._known = known

    def isolate(self, agent: str | type[Agent], *, why: str) -> bool:
        """Refuse sends to an agent until :meth:`close` is called. Returns whether its breaker was not isolated before.

        Args:
            agent: the agent.
            why: shown to refused senders and operators; a second call replaces it.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            InvalidPolicy: the agent has no circuit breaker, or ``why`` is empty, too long or no text.
            BrokerUnavailable: Redis is away.
        """
        if not is_text(why) or not why.strip() or len(why) > _LONGEST_WHY:
            raise InvalidPolicy("why", why, f"a text of 1 to {_LONGEST_WHY} characters")
        return _of_breaker(agent, self._backend().isolate(_name(agent), why))

    def close(self, agent: str | type[Agent]) -> bool:
        """Close an agent's breaker, so that sends go through. Returns whether it was not closed.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            InvalidPolicy: the agent has no circuit breaker.
            BrokerUnavailable: Redis is away.
        """
        return _of_breaker(agent, self._backend().close(_name(agent)))

    def state(self, agent: str | type[Agent]) -> BreakerStatus:
        """The status of an agent's breaker.

        Raises:
            UnknownAgent: no such agent was declared here or announced by any worker.
            InvalidPolicy: the agent has no circuit breaker.
            BrokerUnavailable: Redis is away.
        """
        name = _name(agent)
        return _of_breaker(agent, self._backend().statuses([name]).get(name))

    def list(self) -> list[BreakerStatus]:
        """The status of all breakers, by agent.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        statuses = self._backend().statuses(sorted(self._known()))
        return [statuses[agent] for agent in sorted(statuses)]


def _name(agent: str | type[Agent]) -> str:
    if isinstance(agent, str):
        return agent
    if isinstance(agent, type) and issubclass(agent, Agent):
        return agent.name
    raise InvalidPolicy("agent", agent, "an agent's name or an Agent class")


def _of_breaker(agent: str | type[Agent], found: _T | None) -> _T:
    if found is None:
        raise InvalidPolicy("agent", _name(agent), "an agent that has a circuit breaker")
    return found
