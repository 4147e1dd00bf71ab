"""The deliveries of a bulk send, as a sequence that keeps little more than their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from orchestrator.core.policy import OnError
from orchestrator.sending.delivery import Awaiter, Delivery, Tracker


@dataclass(frozen=True, slots=True)
class Deliveries(Sequence[Delivery]):
    """One delivery for each message, in the order in which they were given. Each is made when it is asked for."""

    agent: str
    ids: tuple[str, ...]
    #: Names of the messages; one, if all have the same.
    messages: tuple[str, ...]
    on_error: OnError
    _await: Awaiter
    _tracker: Tracker
    _queue: str
    _trace: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Delivery: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Delivery]: ...
    def __getitem__(self, index: int | slice) -> Delivery | Sequence[Delivery]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self.ids)))]
        message = self.messages[0] if len(self.messages) == 1 else self.messages[index]
        return Delivery(
            self.ids[index], self.agent, message, self.on_error, self._await, self._tracker, self._queue, self._trace
        )
