"""The results of a run's steps by their names, for a handler; each is read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.agents.step_context import StepContext
from orchestrator.core.forks import lazy_property
from orchestrator.core.workflows.result_path import MARK

#: Replaces references in data with results, in the run of a message.
Fill = Callable[[dict[str, Any], Any], Any]

#: Of a run's uid: the number of each step by its name, and whether it is a map.
Numbers = Callable[[str], Mapping[str, tuple[str, bool]]]


class StepResults(Mapping[str, Any]):
    """See :attr:`StepContext.results`."""

    def __init__(self, run: Mapping[str, Any], fill: Fill, numbers: Numbers) -> None:
        self._run = dict(run)
        self._fill = fill
        self._find_numbers = numbers

    @lazy_property
    def _numbers(self) -> Mapping[str, tuple[str, bool]]:
        return self._find_numbers(str(self._run["uid"]))

    def __getitem__(self, name: str) -> Any:
        number, is_map = self._numbers[name]
        return self._fill(self._run, {MARK: {"map" if is_map else "step": number, "path": []}})

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def step_context(run: Mapping[str, Any], fill: Fill, numbers: Numbers, cancellation: Callable[[], bool]) -> StepContext:
    """The step that a handler sees in its context, from the message's header."""
    item = str(run["step"]).partition(".")[2]
    return StepContext(
        id=str(run["id"]),
        uid=str(run["uid"]),
        step=str(run["name"]),
        item=int(item) if item else None,
        results=StepResults(run, fill, numbers),
        cancellation=cancellation,
    )
