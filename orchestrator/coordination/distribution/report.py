"""The report of a distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.coordination.distribution import DistributionStrategy
from orchestrator.core.deliveries.outcome import Outcome
from orchestrator.core.errors import DetachedDelivery, InvalidPolicy
from orchestrator.core.policies.policy import OnError
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.sending.broadcast import Refusal
from orchestrator.sending.delivery import MAX_WAIT_S, Awaiter, Delivery, Tracker

#: Waits for the outcomes of deliveries, at most this number of seconds; returns those that there are by then.
AwaitMany = Callable[[Sequence[str], float], dict[str, Outcome]]


@dataclass(frozen=True, slots=True)
class GivenItem:
    """An item, and who got it."""

    key: int | str
    id: str
    agent: str
    message: str
    queue: str
    on_error: OnError


@named_arguments
@dataclass(frozen=True, slots=True, repr=False)
class DistributionReport:
    """A distribution as it was accepted."""

    id: str
    strategy: DistributionStrategy
    items: tuple[GivenItem, ...]
    #: The agents that could take items, and those that could take none, with the reason.
    agents: tuple[str, ...]
    left_out: Mapping[str, Refusal]
    _await_many: AwaitMany | None = field(default=None, compare=False)
    _await: Awaiter | None = field(default=None, compare=False)
    _tracker: Tracker | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<DistributionReport {self.id}: {len(self.items)} items to {len(self.agents)} agents>"

    def __reduce__(self) -> Any:
        return type(self), (self.id, self.strategy, self.items, self.agents, dict(self.left_out))

    @property
    def counts(self) -> dict[str, int]:
        """The number of items of each agent that could take some."""
        given = Counter(item.agent for item in self.items)
        return {agent: given[agent] for agent in self.agents}

    @property
    def deliveries(self) -> dict[int | str, Delivery]:
        """By item, its delivery: by its place from 0 on, or by its name if the items were named."""
        return {
            item.key: Delivery(
                item.id, item.agent, item.message, item.on_error, self._await, self._tracker, item.queue
            )
            for item in self.items
        }  # fmt: skip

    def wait(self, timeout_s: float) -> dict[int | str, Outcome | None]:
        """Wait for every item's outcome, up to ``timeout_s`` seconds altogether, also while Redis is away.

        Returns:
            By item, as in :attr:`deliveries`, its outcome; ``None`` if it has none by then.

        Raises:
            InvalidPolicy: ``timeout_s`` is no time to wait.
            DetachedDelivery: the report was unpickled.
            BrokerUnavailable: Redis did not answer when ``timeout_s`` seconds had passed.
        """
        if not is_number(timeout_s, 0, MAX_WAIT_S) or not timeout_s:
            raise InvalidPolicy("timeout_s", timeout_s, f"a number above 0, at most {MAX_WAIT_S:g}")
        if not self.items:
            return {}
        if self._await_many is None:
            raise DetachedDelivery(self.items[0].id)
        found = self._await_many([item.id for item in self.items], timeout_s)
        return {item.key: found.get(item.id) for item in self.items}
