"""The compiler: makes a workflow's plan and its messages from its definition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, TypeAlias

from celery import Celery, Task
from celery.canvas import Signature

from orchestrator.core.errors import CallerError, InvalidWorkflow, NoAgents, UnknownAgent, UnknownMessage
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.core.workflows.placement import names_fault
from orchestrator.core.workflows.plan import Kind, OnFailure, StepPlan, When, ranges_text
from orchestrator.core.workflows.result_path import MARK
from orchestrator.sending.address import Directory
from orchestrator.sending.celery_sends import TaskSend, as_published, check_arguments, has_own_way, send_by_task
from orchestrator.sending.messages.agent_messages import build_message
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.messages.task_messages import build_task_message
from orchestrator.sending.send_options import CheckedOptions, check_options
from orchestrator.transport.json_text import encode as as_message_text
from orchestrator.workflows.compiling.check import MAX_STEPS, arguments_of, dependencies_of, inputs_of, problems_in
from orchestrator.workflows.compiling.field_check import check_fields
from orchestrator.workflows.compiling.placement import Placement, lasting, placement_of
from orchestrator.workflows.definition import Limit, StepDefinition, StepOptions, Workflow
from orchestrator.workflows.errbacks import errback_arguments
from orchestrator.workflows.references import PLAIN, Item, Reference, Results, references_in

#: What a step may set of its message.
_STEP_OPTIONS = StepOptions.__optional_keys__

#: The arguments of ``Workflow.step`` and ``Workflow.map`` besides these, for errors.
_STEP_ARGUMENTS = frozenset({"to", "fields", "after", "when", "undo"})
_MAP_ARGUMENTS = _STEP_ARGUMENTS | {"over", "limit"}


#: The options of a step that sets none.
_NO_OPTIONS: Final = CheckedOptions()

#: One encoder for all fingerprints; ``json.dumps`` makes one for each text.
_as_text: Final = json.JSONEncoder(default=str).encode


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A step's plan, its message, if it sends one, and its compensation."""

    plan: StepPlan
    message: OutgoingMessage | None = None
    undo: OutgoingMessage | None = None
    #: Whether its arguments have references, so that its worker has to look results up.
    has_references: bool = False
    undo_has_references: bool = False
    #: Of a step that says what it needs, instead of the messages.
    placement: Placement | None = None
    undo_placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A checked definition; a step's number is its place."""

    name: str
    on_failure: OnFailure
    steps: tuple[CompiledStep, ...]
    #: The workflow's ``final``, with references in the form that workers replace; ``None`` if it has none.
    final: Any
    #: Equal if the definitions are equal; their limits are not part of it. Empty of steps that are added to a run.
    fingerprint: str = ""
    limit: Limit | None = None


def compile_workflow(app: Celery, directory: Directory, workflow: Workflow) -> CompiledWorkflow:
    """Check a definition, and build its messages.

    Raises:
        InvalidWorkflow: it has faults; all are listed.
        UnknownAgent, UnknownMessage, NoAgents: its only fault is such a step; the text names the step.
    """
    compiled = compile_steps(app, directory, workflow, 0, workflow.final)
    return replace(compiled, fingerprint=_fingerprint(workflow, compiled.steps, compiled.final))


def compile_steps(app: Celery, directory: Directory, workflow: Workflow, first: int, final: Any) -> CompiledWorkflow:
    """Check a definition, and build its messages, for steps whose numbers begin with ``first``.

    Raises:
        InvalidWorkflow, UnknownAgent, UnknownMessage, NoAgents: see :func:`compile_workflow`.
    """
    try:
        return _compiled_steps(app, directory, workflow, first, final)
    except RecursionError:
        raise InvalidWorkflow(workflow.name, _nested_too_deeply(workflow)) from None


def _compiled_steps(app: Celery, directory: Directory, workflow: Workflow, first: int, final: Any) -> CompiledWorkflow:
    dependencies = {step.name: dependencies_of(step) for step in workflow.steps}
    problems = problems_in(workflow, dependencies)
    compiler = _Compiler(app, directory, workflow, dependencies, first)
    # A graph with faults has no plan, but its steps' messages are checked all the same.
    steps = () if problems else compiler.steps()
    if problems and len(workflow.steps) <= MAX_STEPS:
        compiler.check_messages()
    wire = None
    try:
        wire = compiler.wire(final)
        _check_json(wire)
    except CallerError as error:
        compiler.errors.append(("final", error))
    if problems or compiler.errors:
        _refuse(workflow.name, problems, compiler.errors)
    return CompiledWorkflow(workflow.name, OnFailure(workflow.on_failure), steps, wire, limit=workflow.limit)


def _nested_too_deeply(workflow: Workflow) -> list[str]:
    """The faults of a definition with values that are too deep to be looked at."""
    found = []
    for step in workflow.steps:
        try:
            references_in([inputs_of(step), arguments_of(step.undo)])
        except RecursionError:
            found.append(f"step {step.name!r}: its arguments are nested too deeply")
    return found or ["its arguments are nested too deeply"]


def _refuse(workflow: str, problems: Sequence[str], errors: Sequence[tuple[str, Exception]]) -> NoReturn:
    """Raise all faults of a definition; ``errors`` are those of its steps, each with what it is in."""
    if not problems and len(errors) == 1 and isinstance(errors[0][1], UnknownAgent | UnknownMessage | NoAgents):
        [(where, only)] = errors
        # The type says what is unknown; of several faults none is more important than the others.
        only.args = (f"{where}: {only}",)
        raise only
    raise InvalidWorkflow(workflow, [*problems, *(f"{where}: {error}" for where, error in errors)])


#: A step's message and its compensation; or what they need instead of an agent.
_Messages: TypeAlias = tuple[OutgoingMessage | None, OutgoingMessage | None, Placement | None, Placement | None]


class _Compiler:
    def __init__(
        self,
        app: Celery,
        directory: Directory,
        workflow: Workflow,
        dependencies: Mapping[str, tuple[str, ...]],
        first: int,
    ) -> None:
        #: Where a fault is, and the fault.
        self.errors: list[tuple[str, Exception]] = []
        self._app = app
        self._directory = directory
        self._steps = workflow.steps
        self._first = first
        #: Whether references to steps that there are not are left to the check of the graph.
        self._ignores_unknown = False
        self._numbers = {step.name: number for number, step in enumerate(self._steps, first)}
        self._dependencies = dependencies
        #: By task: the message of a signature without options, for a step without options.
        self._plain_messages: dict[str, OutgoingMessage] = {}
        #: Step -> the numbers of its errbacks.
        self._errbacks: dict[str, list[int]] = {}
        for number, step in enumerate(self._steps, first):
            for name in step.errback_of:
                self._errbacks.setdefault(name, []).append(number)

    def steps(self) -> tuple[CompiledStep, ...]:
        dependents: list[list[int]] = [[] for _ in self._steps]
        for place, step in enumerate(self._steps):
            for name in self._dependencies[step.name]:
                dependents[self._numbers[name] - self._first].append(place)
        guarded = self._guarded(dependents)
        return tuple(
            self._compiled(step, tuple(self._first + one for one in dependents[place]), guarded[place])
            for place, step in enumerate(self._steps)
        )

    def _guarded(self, dependents: list[list[int]]) -> list[bool]:
        """Of each step, whether another one begins on its failure; see :attr:`StepPlan.guarded`."""
        guarded = [False] * len(self._steps)
        counts = [len(names) for names in dependents]
        free = [number for number, count in enumerate(counts) if count == 0]
        while free:
            number = free.pop()
            guarded[number] = any(
                self._steps[one].when != When.ALL_HANDLED or guarded[one] for one in dependents[number]
            )
            for name in self._dependencies[self._steps[number].name]:
                before = self._numbers[name] - self._first
                counts[before] -= 1
                if counts[before] == 0:
                    free.append(before)
        return guarded

    def _compiled(self, step: StepDefinition, dependents: tuple[int, ...], guarded: bool) -> CompiledStep:
        message, undo, placement, undo_placement = self._messages(step)
        options = self._options(step) | ({} if placement is None else placement.plan_options)
        plan = StepPlan(
            name=step.name,
            kind=step.kind,
            # Above 0, so that an errback does not begin with the run: it begins when it is called.
            dependencies=len(self._dependencies[step.name]) or len(step.errback_of[:1]),
            when=When(step.when),
            guarded=guarded,
            undo=undo is not None or undo_placement is not None,
            dependents=dependents,
            options=options,
        )
        refers = bool(step.errback_of) or _refers(step.fields, step.message)
        undo_refers = undo is not None and _refers(None, step.undo)
        return CompiledStep(plan, message, undo, refers, undo_refers, placement, undo_placement)

    def check_messages(self) -> None:
        """Find the faults of all steps' messages, of a graph whose own faults are known."""
        self._ignores_unknown = True
        for step in self._steps:
            self._messages(step)
        self._ignores_unknown = False

    def _messages(self, step: StepDefinition) -> _Messages:
        """A step's message and its compensation; their faults are in ``errors``."""
        where, options = f"step {step.name!r}", _NO_OPTIONS
        if step.options:
            method, arguments = ("map", _MAP_ARGUMENTS) if step.kind is Kind.MAP else ("step", _STEP_ARGUMENTS)
            with _Faults(self.errors, where):
                options = check_options(step.options, _STEP_OPTIONS, method, arguments)  # type: ignore[arg-type]
        messages: list[OutgoingMessage | Placement | None] = [None, None]
        if step.kind in (Kind.TASK, Kind.MAP):
            with _Faults(self.errors, where):
                messages[0] = _as_json(self._message(step, step.message, step.fields, options))
        if step.undo is not None:
            with _Faults(self.errors, f"{where}, undo"):
                messages[1] = _as_json(self._message(step, step.undo, None, options))
        sent = [one if isinstance(one, OutgoingMessage) else None for one in messages]
        placed = [one if isinstance(one, Placement) else None for one in messages]
        return sent[0], sent[1], placed[0], placed[1]

    def _options(self, step: StepDefinition) -> dict[str, Any]:
        """The fields of a step's plan besides its message and its dependencies.

        Of a map ``over``, the number of the step with the list, ``path``, where in its result, ``says``, the
        reference as text for errors, and ``limit``; of a wait ``event`` and ``ms``; of any step ``errbacks``, their
        numbers.
        """
        errbacks = self._errbacks.get(step.name)
        more = self._options_of_kind(step)
        return more if errbacks is None else {**more, "errbacks": ranges_text(errbacks)}

    def _options_of_kind(self, step: StepDefinition) -> dict[str, Any]:
        if step.kind is Kind.MAP:
            over = {"over": str(self._numbers[step.over.step]), "path": list(step.over.path), "says": repr(step.over)}
            return over if step.limit is None else {**over, "limit": step.limit}
        if step.kind is Kind.WAIT:
            options: dict[str, Any] = {} if step.event is None else {"event": step.event}
            return options if step.wait_s is None else {**options, "ms": round(step.wait_s * 1000)}
        return {}

    def _message(
        self, step: StepDefinition, message: Any, fields: Mapping[str, Any] | None, options: CheckedOptions
    ) -> OutgoingMessage | Placement:
        is_undo = message is step.undo
        if isinstance(message, Task):
            message = message.s()
        if isinstance(message, Signature):
            if step.needs is not None and not is_undo:
                raise _fault("needs with a task; allowed: a message, for tasks have no capabilities")
            return self._task_message(step, message, options)
        return self._agent_message(step, message, fields, options)

    def _task_message(self, step: StepDefinition, signature: Signature, options: CheckedOptions) -> OutgoingMessage:
        if step.to is not None:
            raise _fault(f"to={masked_repr(step.to)} with a task; allowed: a message, or no agent")
        if step.fields is not None:
            raise _fault("fields with a task; allowed: arguments of its signature")
        args = tuple([self.wire(value, step.over) for value in signature["args"]])
        kwargs = {name: self.wire(value, step.over) for name, value in signature["kwargs"].items()}
        if step.errback_of and not signature.immutable:
            args = (*errback_arguments(self._app, signature, self._failed(step)), *args)
        is_plain = not signature.options and not step.options
        if is_plain and (known := self._plain_messages.get(signature.task)) is not None:
            return self._as_its_class_sends(known.with_body(known.id, args, kwargs=kwargs))
        plain = signature.clone()
        plain.args, plain.kwargs = args, kwargs
        timed = sorted(name for name in ("countdown", "eta", "expires") if plain.options.get(name) is not None)
        if timed:
            raise _fault(f"signature options {timed}; allowed: none of these, a step waits after flow.wait(seconds=…)")
        message = lasting(build_task_message(self._app, self._directory, plain, None, options))
        if is_plain:
            self._plain_messages[signature.task] = message
        return self._as_its_class_sends(message)

    def _as_its_class_sends(self, message: OutgoingMessage) -> OutgoingMessage:
        """The message with what its task's class adds to it; eager mode asks the class at each send."""
        task = self._app.tasks.get(message.task)
        if task is None or not has_own_way(task):
            if task is not None:
                check_arguments(task, message.args, message.kwargs)
            return message
        if self._app.conf.task_always_eager:
            return message
        send = TaskSend(message, {}, inline=True)
        send_by_task(task, send)
        if not send.published:
            raise _fault(f"the class of {message.task} publishes nothing now; allowed: a task whose class does")
        return as_published(message, send)

    def _failed(self, step: StepDefinition) -> dict[str, str]:
        """The numbers of the steps that an errback is for, by their tasks."""
        numbers: dict[str, list[int]] = {}
        for name in step.errback_of:
            number = self._numbers[name]
            numbers.setdefault(self._steps[number - self._first].message.task, []).append(number)
        return {task: ranges_text(of_task) for task, of_task in numbers.items()}

    def _agent_message(
        self, step: StepDefinition, message: Any, fields: Mapping[str, Any] | None, options: CheckedOptions
    ) -> OutgoingMessage | Placement:
        if isinstance(message, Message):
            if fields is not None:
                raise _fault("fields with a message; allowed: fields with a message's class")
            cls, values = type(message), encode(message)
        elif isinstance(message, type) and issubclass(message, Message):
            given = {} if fields is None else fields
            check_fields(message, given)
            cls, values = message, {name: self.wire(value, step.over) for name, value in given.items()}
        else:
            raise _fault(f"{masked_repr(message)} is no message; allowed: a Message, its class, a signature or a task")
        if step.needs is not None:
            return self._placement(step, cls, values, options)
        if step.to is None:
            raise _fault("to is missing; allowed: the agent that handles the message, or what it needs")
        address = self._directory.address(step.to, message_name(cls))
        return lasting(
            build_message(
                self._directory.timeouts,
                options,
                id="",
                task=address.task,
                args=[values],
                agent=address.agent,
                message=address.message,
                policy=address.policy,
                queue=address.queue,
                hide=secret_names(cls),
            )
        )

    def _placement(self, step: StepDefinition, cls: type[Message], values: Any, options: CheckedOptions) -> Placement:
        if names_fault(step.needs):
            # Among the faults of the graph.
            raise _NamedElsewhere
        needs, within_s = tuple(sorted(set(step.needs))), step.options.get("place_within_s")
        return placement_of(self._directory, message_name(cls), values, needs, within_s, options, secret_names(cls))

    def wire(self, value: Any, over: Any = None) -> Any:
        """JSON data with references in the form that workers replace (see ``steps/arguments.py``).

        ``over`` is the list of the map in whose message the data is.
        """
        if type(value) in PLAIN or not isinstance(value, Reference | Item | Results | Mapping | list | tuple):
            return value
        match value:
            case Reference(name, path):
                return {MARK: {**self._place(name), "path": list(path)}}
            case Item() if not isinstance(over, Reference):
                # Not in a map over a result: that is among the faults of the graph.
                return None
            case Item(path):
                items = {**self._place(over.step), "path": list(over.path)}
                return {MARK: {"item": items, "path": list(path)}}
            case Results(names):
                return {MARK: {"steps": ranges_text(self._numbers[name] for name in names), "path": []}}
            case Mapping():
                return {key: self.wire(part, over) for key, part in value.items()}
        return [self.wire(part, over) for part in value]

    def _place(self, name: str) -> dict[str, str]:
        if name not in self._numbers and self._ignores_unknown:
            return {"step": ""}
        if name not in self._numbers:
            raise _fault(f"it refers to {name!r}, which is no step")
        number = self._numbers[name]
        return {"map" if self._steps[number - self._first].kind is Kind.MAP else "step": str(number)}


class _NamedElsewhere(Exception):
    """A fault is among those of the graph."""


class _Faults:
    """Adds a fault that is raised to ``errors``, with where it is."""

    def __init__(self, errors: list[tuple[str, Exception]], where: str) -> None:
        self._errors, self._where = errors, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, CallerError | TypeError):
            self._errors.append((self._where, error))
            return True
        return isinstance(error, _NamedElsewhere)


def _as_json(message: OutgoingMessage | Placement) -> OutgoingMessage | Placement:
    """The message, whose arguments are JSON data."""
    _check_json(message.values if isinstance(message, Placement) else [list(message.args), dict(message.kwargs)])
    return message


def _check_json(value: Any) -> None:
    """Refuse what a message cannot have in it.

    Raises:
        CallerError: it is not JSON data.
    """
    try:
        as_message_text(value)
    except (TypeError, ValueError) as error:
        raise _fault(f"arguments that are not JSON data: {error}") from error


def _fault(text: str) -> CallerError:
    return CallerError(text)


def _refers(fields: Any, message: Any) -> bool:
    return bool(references_in([fields, arguments_of(message)]))


def _fingerprint(workflow: Workflow, steps: tuple[CompiledStep, ...], final: Any) -> str:
    parts = [str(workflow.on_failure), _as_text(final)]
    # Many steps share one supervision.
    wires: dict[int, str] = {}
    for step in steps:
        parts.append(step.plan.to_text())
        for message in (step.message, step.undo):
            if message is not None:
                known = id(message.supervision)
                if known not in wires:
                    wires[known] = _as_text({**message.supervision.to_wire(), "deadline_at_s": None})
                arguments = _as_text([message.task, list(message.args), dict(message.kwargs)])
                parts.append(f"{arguments[:-1]}, {wires[known]}]")
        for placement in (step.placement, step.undo_placement):
            if placement is not None:
                # Without its candidates: which agents are known does not change a definition.
                parts.append(_as_text([placement.send(has_references=False), placement.values]))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
