"""One execution of a workflow function: what it has asked for before is answered from its history.

The first call that has no recorded outcome ends the execution by :class:`Unwound`. It is no ``Exception``, so that a
function's ``except Exception`` lets it through, in every pool: it is raised and caught within the task's own call. One
that is caught all the same is found at the end, and is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import get_ident
from typing import Any, Final, NoReturn

from orchestrator.core.deliveries.outcome import Dead, Handled, Outcome
from orchestrator.core.errors import (
    CallerError,
    CallNotDeployed,
    InvalidExpansion,
    Nondeterministic,
    ResultTooLarge,
    StepFailed,
    SuspensionCaught,
    TooManyCalls,
)
from orchestrator.core.workflows.run_calls import Suspended
from orchestrator.core.workflows.run_state import DEPLOYMENT_REASONS
from orchestrator.worker.execution.handler_result import as_json
from orchestrator.workflows.definition import StepDefinition
from orchestrator.workflows.functions.history import History, fingerprint_of

#: Most entries of a function's history.
MAX_CALLS: Final = 10_000

#: Writes new calls to the plan of the run, and returns what the execution's outcome says of them.
Suspend = Callable[[Sequence[StepDefinition], int, Sequence[Sequence[Any]]], Suspended]


class Unwound(BaseException):
    """Ends an execution where it has asked for something that is not recorded yet, or that it may not ask for."""


class Execution:
    """One execution of a function. ``run`` is the header of the function's message, ``result_limit`` in bytes."""

    def __init__(
        self, task: str, run: Mapping[str, Any], history: History, suspend: Suspend, result_limit: int
    ) -> None:
        self.run = run
        self._task = task
        self._history = history
        self._suspend = suspend
        self._result_limit = result_limit
        self._thread = get_ident()
        #: The number of entries that it has asked for, and those among them that are new.
        self._position = 0
        self._new: list[list[Any]] = []
        #: Bytes of the new values, which the outcome of this execution holds. All of it is decoded in a script.
        self._values_size = 0
        self._in_value = False
        #: What it ends with, once it has been unwound.
        self._end: Suspended | Exception | None = None

    def finish(self, call: Callable[[], Any]) -> Any:
        """Call the function; returns its result, or :class:`Suspended`.

        Raises:
            Nondeterministic: it asks for something else than an earlier execution.
            SuspensionCaught: it has caught what was to end it.
            Exception: whatever it has raised itself, or what it has asked for could not be done.
        """
        try:
            result = call()
        except Unwound as unwound:
            if isinstance(self._end, Suspended):
                return self._end
            raise self._error().with_traceback(unwound.__traceback__) from None
        if self._end is not None:
            raise self._error()
        if self._position < len(self._history.entries):
            left = self._history.entries[self._position].fingerprint
            raise Nondeterministic(str(self.run["name"]), self._position + 1, left, "nothing, it has returned")
        return result

    def _error(self) -> Exception:
        return self._end if isinstance(self._end, Exception) else SuspensionCaught(self._task, self._position)

    def results(self, calls: Sequence[Callable[[str], StepDefinition]]) -> list[Any]:
        """The results of calls, each made of the name that its step is to have. They are sent together.

        Raises:
            StepFailed: one of them was not handled; all have ended.
        """
        self._check()
        names, outcomes, new = [], list[Outcome | None](), list[StepDefinition]()
        for build in calls:
            self._position += 1
            definition = build(str(self._position))
            names.append(definition.name)
            fingerprint = self._done(partial(fingerprint_of, definition))
            if self._position <= len(self._history.entries):
                outcomes.append(self._history.outcome(self._recorded(fingerprint, is_call=True).number or ""))
            else:
                new.append(definition)
                self._new.append([fingerprint])
        if None in outcomes:
            # An execution of a replayed letter, while calls are out: it has nothing to say.
            self._end_with(self._done(lambda: self._suspend([], len(self._history.entries), [])))
        if new:
            if self._position > MAX_CALLS:
                self._fail(TooManyCalls(str(self.run["name"]), self._position, MAX_CALLS))
            self._end_with(self._done(lambda: self._suspend(new, len(self._history.entries), self._new)))
        return [self._result(name, outcome) for name, outcome in zip(names, outcomes, strict=True)]

    def value(self, what: str, make: Callable[[], Any]) -> Any:
        """A value that is the same in all executions: made in the first one, and recorded with its next calls."""
        self._check()
        self._position += 1
        if self._position <= len(self._history.entries):
            return self._recorded(what, is_call=False).value
        if self._position > MAX_CALLS:
            self._fail(TooManyCalls(str(self.run["name"]), self._position, MAX_CALLS))

        def made() -> Any:
            self._in_value = True
            text = json.dumps(as_json(what, make()))
            self._values_size += len(text)
            if self._values_size > self._result_limit:
                raise ResultTooLarge(self._values_size, self._result_limit)
            return json.loads(text)

        value = self._done(made)
        self._in_value = False
        self._new.append([what, value])
        return value

    def _recorded(self, fingerprint: str, *, is_call: bool) -> Any:
        entry = self._history.entries[self._position - 1]
        if entry.fingerprint != fingerprint or (entry.number is not None) is not is_call:
            self._fail(Nondeterministic(str(self.run["name"]), self._position, entry.fingerprint, fingerprint))
        return entry

    def _result(self, name: str, outcome: Outcome | None) -> Any:
        if isinstance(outcome, Handled):
            return outcome.result
        by_deployment = isinstance(outcome, Dead) and outcome.reason in DEPLOYMENT_REASONS
        raise (CallNotDeployed if by_deployment else StepFailed)(f"{self.run['name']}/{name}", outcome)

    def check_place(self) -> None:
        """Whether what differs between executions, if it is asked for elsewhere, may be asked for here.

        Raises:
            CallerError: this is another thread than the function's own.
        """
        if get_ident() != self._thread:
            raise CallerError(f"{self._task}: a call in another thread; allowed: in the function's own")
        if self._in_value:
            # Another execution would not come here: it has the value.
            self._fail(InvalidExpansion(["the context in a side_effect; allowed: what its function needs, before it"]))

    def _check(self) -> None:
        self.check_place()
        if self._end is not None:
            raise Unwound
        if str(self.run["step"]).startswith("u"):
            self._fail(InvalidExpansion(["a compensation that makes calls; allowed: a plain task or a message"]))

    def _done(self, act: Callable[[], Any]) -> Any:
        """Its result; an error ends the execution, so that the function cannot take it for that of a call."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        self._end = error
        raise Unwound from error

    def _end_with(self, suspended: Suspended) -> NoReturn:
        self._end = suspended
        raise Unwound
