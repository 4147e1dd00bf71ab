"""The definition of a workflow: its steps, and what each of them depends on. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from orchestrator.core.errors import InvalidWorkflow
from orchestrator.core.policies.policy import OnError, Retry
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.nearest import meant
from orchestrator.core.spelling.option_names import named_arguments, named_options
from orchestrator.core.workflows.plan import Kind, OnFailure, When
from orchestrator.workflows.references import Reference

if TYPE_CHECKING:
    from celery import Task
    from celery.canvas import Signature

    from orchestrator.agents.agent import Agent
    from orchestrator.core.message import Message


class StepOptions(TypedDict, total=False):
    """The options of a step: those of its message, as of :meth:`Orchestrator.send`, and where it is placed."""

    retry: Retry | None
    on_error: OnError | str | None
    timeout_s: float | None
    priority: int | None
    metadata: Mapping[str, Any] | None
    #: Instead of an agent: what it has to offer. Of the living ones that offer all of it the least loaded gets it.
    needs: Collection[str] | None
    #: After how many seconds a step is dead for which no such agent lives; it waits for ever unless this is said.
    place_within_s: float | None


class CanvasOptions(StepOptions, total=False):
    """The options of :meth:`Orchestrator.send` with a canvas: a step's, for each task, and one for the run."""

    #: When the run is cancelled, in seconds from now.
    deadline_s: float | None


class LimitStrategy(StrEnum):
    """The treatment of a run that starts while as many are out as may be."""

    #: It begins when another one has ended, in the order of the starts.
    QUEUE = "queue"
    #: The oldest one is cancelled, compensated if its ``on_failure`` says so, and the new one begins at once.
    CANCEL_IN_PROGRESS = "cancel_in_progress"
    #: The new one is cancelled before it begins.
    CANCEL_NEWEST = "cancel_newest"


@named_options
@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of the runs that are out: of a workflow, or of all workflows whose limits have the same ``key``."""

    running: int
    #: The workflow's name if it is not given.
    key: str | None = None
    strategy: LimitStrategy | str = LimitStrategy.QUEUE


@dataclass(frozen=True, slots=True)
class StepDefinition:
    """One step as it was declared; it may have faults, which :mod:`orchestrator.workflows.compiling.check` finds."""

    name: str
    kind: Kind
    #: A message, a message's class, a signature or a task; ``None`` if the step sends no message.
    message: Any = None
    to: Any = None
    fields: Mapping[str, Any] | None = None
    after: tuple[Any, ...] = ()
    when: When | str = When.ALL_HANDLED
    undo: Any = None
    options: StepOptions = field(default_factory=StepOptions)
    #: A map's list, and how many of its items may be out at a time.
    over: Any = None
    limit: int | None = None
    #: What a step waits for, and how long.
    event: str | None = None
    wait_s: float | None = None
    #: Of ``seconds`` and ``timeout_s`` the one that was given, and does not go with what it waits for: name and value.
    surplus: tuple[str, Any] | None = None
    #: Whether ``after`` names all dependencies; if not, the steps that references name are dependencies, too.
    after_is_all: bool = False
    #: The steps whose errback it is: it begins once one of them is dead, and otherwise never. It does not guard them.
    errback_of: tuple[str, ...] = ()

    @property
    def needs(self) -> Any:
        """The capabilities that its agent needs, as they were given; ``None`` if it names its agent."""
        return self.options.get("needs")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a definition, to be named in ``after`` and in references."""

    name: str

    @property
    def result(self) -> Reference:
        """The result that the step will have: of a map a list of its items' results, of a wait the event's payload."""
        return Reference(self.name)


#: What ``after`` takes.
After = Step | str | Iterable[Step | str] | None


@named_options
@named_arguments
class Workflow:
    """A graph of steps. ``orchestrator.workflows.start(workflow)`` makes a run of it.

    A step depends on the steps that it names in ``after`` and on those whose results it refers to. Once all of them
    have ended, it begins if ``when`` holds for their outcomes; otherwise it is skipped, and counts as not handled.

    Args:
        name: for lists, events and metrics; letters, digits, ``_``, ``.``, ``-``, at most 100.
        on_failure: what a run does after a step was not handled, unless a step with ``when="all_ended"``,
            ``"any_failed"`` or ``"any_handled"`` depends on it: ``"stop"``, ``"continue"`` or ``"compensate"``.
        max_running: how many of its runs may be out at a time; further ones are queued. A :class:`Limit` says more.

    Raises:
        InvalidWorkflow: there is no such ``on_failure``.
    """

    def __init__(
        self, name: str, *, on_failure: OnFailure | str = OnFailure.STOP, max_running: int | Limit | None = None
    ) -> None:
        if on_failure not in list(OnFailure):
            raise InvalidWorkflow(name, [on_failure_fault(on_failure)])
        self.name = name
        self.on_failure = on_failure
        self.limit = max_running if isinstance(max_running, Limit) or max_running is None else Limit(max_running)
        #: What ``run.result()`` returns: JSON data that may hold references to results.
        self.final: Any = None
        self._steps: list[StepDefinition] = []

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}: {len(self._steps)} steps>"

    @classmethod
    def from_canvas(cls, canvas: Signature | Task, name: str | None = None, **options: Unpack[StepOptions]) -> Workflow:
        """The workflow that does what a canvas of Celery does: chains, groups, chords and chunks, in any nesting.

        ``run.result()`` is what ``canvas.apply_async().get()`` would have returned. See ``docs/canvas.md``.

        Args:
            canvas: it is read, and not changed.
            name: for lists, events and metrics; its kind and its first task if it is not given.
            options: for each step, callbacks and errbacks included.

        Raises:
            InvalidWorkflow: it has parts that have no counterpart; all are listed.
        """
        from orchestrator.workflows.canvas import fill_from_canvas, name_of

        flow = cls(name_of(canvas) if name is None else name)
        fill_from_canvas(flow, canvas, options)
        return flow

    @property
    def steps(self) -> Sequence[StepDefinition]:
        """The steps in the order of their declaration."""
        return tuple(self._steps)

    def step(
        self,
        name: str,
        message: Message | type[Message] | Signature | Task,
        *,
        to: str | type[Agent] | None = None,
        fields: Mapping[str, Any] | None = None,
        after: After = None,
        when: When | str = When.ALL_HANDLED,
        undo: Message | Signature | Task | None = None,
        **options: Unpack[StepOptions],
    ) -> Step:
        """Add a step: a message to an agent, or a Celery task.

        Args:
            name: unique in the workflow.
            message: a message; or a message's class, whose ``fields`` may hold references; or a signature or task,
                whose arguments may hold references.
            to: the agent; none for a task, and if ``needs`` says what the agent has to offer.
            fields: the fields of a message that is given as its class.
            after: the steps that have to end first, besides those whose results it refers to.
            when: on which outcomes of all these it begins: ``"all_handled"``, ``"all_ended"``, ``"any_handled"`` or
                ``"any_failed"``.
            undo: its compensation, for the same agent, or any that offers what it ``needs``; or a task.
            options: those of :meth:`Orchestrator.send` that :class:`StepOptions` has, ``needs`` and
                ``place_within_s``.
        """
        definition = StepDefinition(name, Kind.TASK, message, to, fields, _listed(after), when, undo, options)
        return self._add(definition)

    def map(
        self,
        name: str,
        message: type[Message] | Signature | Task,
        *,
        over: Reference,
        to: str | type[Agent] | None = None,
        fields: Mapping[str, Any] | None = None,
        after: After = None,
        when: When | str = When.ALL_HANDLED,
        limit: int | None = None,
        undo: Message | Signature | Task | None = None,
        **options: Unpack[StepOptions],
    ) -> Step:
        """Add a step that sends a message for each item of a list in another step's result.

        ``ITEM`` in its fields or arguments stands for the item. The step's result is the list of the items' results, in
        their order; the step is handled if every item is. At most ``limit`` messages are out at a time; default: all.
        """
        definition = StepDefinition(
            name, Kind.MAP, message, to, fields, _listed(after), when, undo, options, over=over, limit=limit
        )
        return self._add(definition)

    def join(self, name: str, *, after: After, when: When | str = When.ALL_HANDLED) -> Step:
        """Add a step that does nothing: many steps can depend on many others through it."""
        return self._add(StepDefinition(name, Kind.JOIN, after=_listed(after), when=when))

    def wait(
        self,
        name: str,
        *,
        event: str | None = None,
        timeout_s: float | None = None,
        seconds: float | None = None,
        after: After = None,
        when: When | str = When.ALL_HANDLED,
    ) -> Step:
        """Add a step that waits for ``run.post(event, payload)``, or for a number of ``seconds``.

        Its result is the event's payload. If the event does not come within ``timeout_s``, it is dead, with the reason
        ``timeout``. Times are those of Redis' clock, and are kept to about a second.
        """
        wait_s, surplus = (seconds, ("timeout_s", timeout_s)) if event is None else (timeout_s, ("seconds", seconds))
        definition = StepDefinition(
            name, Kind.WAIT, after=_listed(after), when=when, event=event, wait_s=wait_s,
            surplus=None if surplus[1] is None else surplus,
        )  # fmt: skip
        return self._add(definition)

    def _add(self, definition: StepDefinition) -> Step:
        name: Any = definition.name
        if not isinstance(name, str):
            # A name that no step may have, so that it is among the faults.
            definition = replace(definition, name=f"{masked_repr(name)} ({type(name).__name__})")
        self._steps.append(definition)
        return Step(definition.name)


def on_failure_fault(value: object) -> str:
    """The fault of an unknown ``on_failure``."""
    return f"on_failure={masked_repr(value)}; allowed: {', '.join(OnFailure)}{meant(value, OnFailure)}"


def _listed(after: After) -> tuple[Any, ...]:
    if after is None:
        return ()
    if isinstance(after, Step | str) or not isinstance(after, Iterable):
        return (after,)
    return tuple(after)


def names_in(after: Iterable[Any]) -> Iterator[str]:
    """The names of the steps that an ``after`` names."""
    for one in after:
        yield one.name if isinstance(one, Step) else one if isinstance(one, str) else masked_repr(one)
