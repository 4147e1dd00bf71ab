"""The deliveries of a bulk send, as a sequence that keeps little more than their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from orchestrator.core.policies.policy import OnError
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.sending.delivery import Awaiter, Delivery, Tracker


@named_arguments
@dataclass(frozen=True, slots=True, repr=False)
class Deliveries(Sequence[Delivery]):
    """One delivery for each message, in the order in which they were given. Each is made when it is asked for."""

    agent: str
    ids: tuple[str, ...]
    #: Names of the messages; one, if all have the same.
    messages: tuple[str, ...]
    #: What each is to do if it is not handled; one, if all are to do the same.
    on_errors: tuple[OnError, ...]
    _await: Awaiter | None = field(compare=False)
    _tracker: Tracker | None = field(compare=False)
    _queue: str
    _trace: Mapping[str, Any] | None = field(default=None, compare=False)
    tracked: bool = True

    def __repr__(self) -> str:
        return f"<Deliveries: {len(self.ids)} to {self.agent or 'nobody'}>"

    def __reduce__(self) -> Any:
        known = self.agent, self.ids, self.messages, self.on_errors
        return type(self), (*known, None, None, self._queue, None, self.tracked)

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
        on_error = self.on_errors[0] if len(self.on_errors) == 1 else self.on_errors[index]
        return Delivery(
            self.ids[index],
            self.agent,
            message,
            on_error,
            self._await,
            self._tracker,
            self._queue,
            self._trace,
            self.tracked,
        )
