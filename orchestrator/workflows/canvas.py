"""Celery's canvas as a workflow: chains, groups and chords in any nesting, with the results that Celery gives them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from celery import Task
from celery.canvas import Signature, _chain, _chord, group, maybe_signature
from celery.utils.functional import maybe_list

from orchestrator.core.checks.numbers import is_whole_number
from orchestrator.core.errors import InvalidWorkflow
from orchestrator.core.message import Message, message_name
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.workflows.plan import Kind, OnFailure
from orchestrator.workflows.compiling.check import MAX_STEPS
from orchestrator.workflows.definition import StepDefinition, StepOptions
from orchestrator.workflows.references import Reference, Results

if TYPE_CHECKING:
    from orchestrator.workflows.definition import Workflow

#: Options that Celery sets in a signature that it sends; a run needs none of them.
_CELERYS_OWN: Final = frozenset({"group_id", "group_index", "chord", "chain", "root_id", "parent_id", "reply_to"})

#: Tasks that call another one for each item of a list. They are known by name: Celery's copies lose their classes.
_MAPS: Final = frozenset({"celery.map", "celery.starmap", "celery.chunks"})

#: Options that begin other steps.
_LINKS: Final = frozenset({"link", "link_error"})

#: Longest part of a step's name that says which task it is.
_LONGEST_NAME: Final = 80

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]")


def is_canvas(recipient: object) -> bool:
    """Whether it is made of several tasks."""
    return isinstance(recipient, _chain | group | _chord) or (
        isinstance(recipient, Signature) and recipient.task in _MAPS
    )


def fill_from_canvas(flow: Workflow, canvas: Signature | Task, options: StepOptions) -> tuple[str, ...]:
    """Add the steps of a canvas to an empty workflow, and set its ``final``.

    Returns:
        The names of the steps that have to be handled for the result to be there.

    Raises:
        InvalidWorkflow: it has parts that have no counterpart; all are listed.
    """
    return _fill(flow, options, lambda builder: builder.build(_signature(canvas), _Given()))


def fill_from_list(flow: Workflow, members: Iterable[Any], options: StepOptions) -> tuple[str, ...]:
    """Add a list of signatures, canvases and pairs of an agent and a message, as :func:`fill_from_canvas` does.

    Raises:
        InvalidWorkflow: there are others among them; all are listed.
    """
    return _fill(flow, options, lambda builder: builder.build_list(members))


def _fill(flow: Workflow, options: StepOptions, build: Callable[[_Builder], _Part | None]) -> tuple[str, ...]:
    builder = _Builder(flow, options)
    try:
        part = build(builder)
    except RecursionError:
        raise InvalidWorkflow(flow.name, ["its canvas is nested too deeply"]) from None
    if builder.problems:
        raise InvalidWorkflow(flow.name, builder.problems)
    flow.on_failure = OnFailure.CONTINUE
    flow.final = None if part is None else part.value
    return () if part is None else part.ends


def name_of(canvas: object) -> str:
    """The default name of a canvas' workflow: its kind and its first task."""
    kind, first = "", canvas
    while is_canvas(first):
        kind = kind or str(first.task).rpartition(".")[2]  # type: ignore[attr-defined]
        if first.task in _MAPS:  # type: ignore[attr-defined]
            first = _signature(first.kwargs["task"])  # type: ignore[attr-defined]
            continue
        tasks = list(islice(_members(first), 1))
        if not tasks:
            return kind
        first = _signature(tasks[0])
    task = _plain_name(str(getattr(first, "task", None) or getattr(first, "name", "")))
    return f"{kind}-{task}" if kind else task


@dataclass(frozen=True, slots=True)
class _Given:
    """The context of a part of a canvas: what Celery and the parts around it give to it."""

    #: Arguments that are put before its own: JSON data with references.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: The steps that have to be handled first.
    after: tuple[str, ...] = ()
    #: Options of the canvas around it, which win over its own.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The steps of a chord's header, whose failure calls the errbacks of the body.
    header: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """The steps that a part of a canvas has become."""

    #: Its result, as JSON data with references.
    value: Any
    #: The steps that have to be handled for the result to be there.
    ends: tuple[str, ...]


class _Builder:
    def __init__(self, flow: Workflow, options: StepOptions) -> None:
        self.problems: list[str] = []
        self._flow = flow
        self._options = options
        self._names: Counter[str] = Counter()
        #: The steps of the canvas itself, without callbacks and errbacks.
        self._main: list[str] = []

    def build(self, signature: Signature, given: _Given) -> _Part | None:
        """Add the steps of a signature; ``None`` if it has none."""
        if signature.options.get("task_id") is not None:
            self._refuse(signature, "task_id", signature.options["task_id"], "none, a step's id is its run's")
        if isinstance(signature, _chain):
            return self._chain(signature, given)
        if isinstance(signature, group):
            return self._group(signature, given)
        if isinstance(signature, _chord):
            return self._chord(signature, given)
        if signature.task in _MAPS:
            given = replace(given, options=_merged(signature, given))
            part = self._map(signature, given)
            self._links(signature, part, part.ends)
            return part
        args, kwargs = signature.args, signature.kwargs
        if not signature.immutable:
            args, kwargs = (*given.args, *args), {**kwargs, **given.kwargs}
        return self._task(signature, args, kwargs, given)

    def build_list(self, members: Iterable[Any]) -> _Part:
        """Add the steps of each member: a signature, a pair of an agent and a message, or a message."""
        parts: list[_Part] = []
        for member in islice(members, MAX_STEPS + 1):
            match member:
                case (agent, Message() as message):
                    name = self._add(Kind.TASK, message_name(type(message)), (), message=message, to=agent,
                                     options=self._options)  # fmt: skip
                    parts.append(_Part(Reference(name), (name,)))
                case Message():
                    name = self._add(Kind.TASK, message_name(type(member)), (), message=member, options=self._options)
                    parts.append(_Part(Reference(name), (name,)))
                case Task() | Mapping():
                    parts.append(self.build(_signature(member), _Given()) or _Part([], ()))
                case _:
                    allowed = "a signature, a task, or a pair of an agent and a message; with needs also a message"
                    self.problems.append(f"{masked_repr(member)} is no step; allowed: {allowed}")
        return _together(parts, ())

    # -- kinds of canvas

    def _task(self, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], given: _Given) -> _Part:
        options = _merged(signature, given)
        delay_s, after = options.pop("countdown", None), given.after
        if delay_s is not None:
            after = (self._add(Kind.WAIT, "countdown", after, wait_s=delay_s),)
        name = self._step(signature, args, kwargs, options, after)
        part = _Part(Reference(name), (name,))
        self._links(signature, part, (*given.header, name))
        return part

    def _chain(self, chain: _chain, given: _Given) -> _Part | None:
        steps = [_signature(task) for task in chain.tasks]
        steps = [_unrolled(step) for step in steps]
        steps = [step for step in steps if not _is_empty(step)] or steps[-1:]
        # Celery does so twice with the first one.
        steps[:1] = map(_unrolled, steps[:1])
        began, part = len(self._main), None
        args = chain.args if chain.immutable else (*given.args, *chain.args)
        given = replace(given, args=tuple(args), options=_merged(chain, given))
        for step in steps:
            following = given if part is None else self._following(part, step)
            part = self.build(step, following) or part
        if part is not None:
            self._links(chain, part, (*given.header, *self._main[began:]))
        return part

    def _group(self, group_: group, given: _Given) -> _Part:
        for link in sorted(_LINKS & {name for name, value in group_.options.items() if value}):
            self._refuse(group_, link, group_.options[link], "those of its tasks, or of a chord")
        given = replace(given, args=(*given.args, *group_.args), options=_merged(group_, given))
        parts: list[_Part] = []
        self._add_members(group_.tasks, given, parts)
        return _together(parts, given.after)

    def _add_members(self, tasks: Iterable[Any], given: _Given, parts: list[_Part]) -> None:
        for member in map(_signature, tasks):
            if isinstance(member, group):
                # Its results are those of the group around it.
                inner = replace(given, options=_merged(member, given))
                self._add_members(member.tasks, inner, parts)
            elif (part := self.build(member, given)) is not None:
                parts.append(part)

    def _chord(self, chord: _chord, given: _Given) -> _Part | None:
        if chord.body is None:
            self._refuse(chord, "body", None, "a task or a canvas")
            return None
        args = chord.args if chord.immutable else (*given.args, *chord.args)
        kwargs = {**chord.kwargs.get("kwargs", {}), **given.kwargs}
        options = _merged(chord, given)
        began, parts = len(self._main), list[_Part]()
        self._add_members(_members(chord), replace(given, args=args, kwargs=kwargs, options=options, header=()), parts)
        header = _together(parts, given.after)
        body = _signature(chord.body)
        # As in Celery, these two put off the header alone.
        options = {name: value for name, value in options.items() if name not in ("countdown", "eta")}
        steps = (*given.header, *self._main[began:])
        part = self.build(body, replace(self._following(header, body), options=options, header=steps))
        if part is not None:
            self._links(chord, part, (*given.header, *self._main[began:]))
        return part

    def _map(self, map_: Signature, given: _Given) -> _Part:
        """Celery calls the task for each item within one message; here each is a step, with attempts of its own."""
        mapped, starred = _signature(map_.kwargs["task"]), map_.task != "celery.map"
        parts: list[_Part] = []
        for item in islice(map_.kwargs["it"], MAX_STEPS + 1):
            step = Signature(mapped.task, app=mapped._app)
            step._type = mapped._type
            parts.append(self._task(step, item if starred else (item,), {}, given))
        size = map_.kwargs.get("n")
        if size is None:
            return _together(parts, given.after)
        if not is_whole_number(size) or size < 1:
            self._refuse(map_, "n", size, "a whole number from 1")
            return _together(parts, given.after)
        chunks = [_together(parts[at : at + size], given.after) for at in range(0, len(parts), size)]
        return _together(chunks, given.after)

    # -- steps

    def _following(self, part: _Part, signature: Signature) -> _Given:
        """The context of a signature that follows a part. A join is added where many steps meet many others."""
        after = part.ends
        if len(after) > 1 and _may_begin_with_many(signature):
            after = (self._add(Kind.JOIN, "join", after),)
        return _Given(args=(part.value,), after=after)

    def _links(self, signature: Signature, part: _Part, watched: Sequence[str]) -> None:
        """Add the callbacks of a part, and its errbacks, which are called once any of the ``watched`` steps is dead."""
        for callback in map(_signature, maybe_list(signature.options.get("link")) or ()):
            main, self._main = self._main, []
            self.build(callback, self._following(part, callback))
            self._main = main
        for errback in map(_signature, maybe_list(signature.options.get("link_error")) or ()):
            if is_canvas(errback):
                self._refuse(signature, "link_error", errback.task, "a task's signature")
                continue
            name = self._step(errback, errback.args, errback.kwargs, _merged(errback, _Given()), (), tuple(watched))
            self._links(errback, _Part(Reference(name), (name,)), (name,))

    def _step(
        self,
        signature: Signature,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        after: tuple[str, ...],
        errback_of: tuple[str, ...] = (),
    ) -> str:
        plain = Signature(
            signature.task,
            args=tuple(args),
            kwargs=dict(kwargs),
            options=dict(options),
            immutable=signature.immutable,
            app=signature._app,
        )
        plain._type = signature._type
        name = self._add(Kind.TASK, signature.task, after, message=plain, options=self._options, errback_of=errback_of)
        if not errback_of:
            self._main.append(name)
        return name

    def _add(self, kind: Kind, about: str, after: tuple[str, ...], **values: Any) -> str:
        base = _plain_name(about)
        self._names[base] += 1
        name = f"{base}-{self._names[base]}"
        self._flow._add(StepDefinition(name, kind, after=after, after_is_all=True, **values))
        return name

    def _refuse(self, signature: Signature, name: str, value: Any, allowed: str) -> None:
        self.problems.append(f"{signature.task}: {name}={masked_repr(value)}; allowed: {allowed}")


def _signature(value: Any) -> Signature:
    if isinstance(value, Task):
        return value.s()
    signature = maybe_signature(value)
    if not isinstance(signature, Signature):
        raise InvalidWorkflow(
            "canvas", [f"{masked_repr(value)} is no canvas; allowed: a signature, a task, or what is made of them"]
        )
    return signature


def _may_begin_with_many(signature: Signature) -> bool:
    """Whether several steps may depend on what comes before it."""
    while isinstance(signature, _chain) and not _is_empty(signature):
        signature = _signature(next(iter(signature.tasks)))
    return is_canvas(signature)


def _members(canvas: Any) -> Iterable[Any]:
    """The tasks of a chain or a group, or of a chord's header."""
    if not isinstance(canvas, _chord):
        return canvas.tasks  # type: ignore[no-any-return]
    header = canvas.kwargs["header"]
    return header.tasks if isinstance(header, group) else header  # type: ignore[no-any-return]


def _unrolled(step: Signature) -> Signature:
    """A step of a chain; as in Celery, a group of one is its only member, be that a group or not."""
    members = list(islice(step.tasks, 2)) if isinstance(step, group) else []
    if len(members) != 1:
        return step
    member = _signature(members[0]).clone()
    member.options.update(_merged(step, _Given()))
    return member


def _is_empty(step: Signature) -> bool:
    return isinstance(step, group | _chain) and not list(islice(step.tasks, 1))


def _together(parts: Sequence[_Part], after: tuple[str, ...]) -> _Part:
    values = [part.value for part in parts]
    ends = tuple(end for part in parts for end in part.ends) or after
    if values and all(isinstance(value, Reference) for value in values):
        return _Part(Results(tuple(value.step for value in values)), ends)
    return _Part(values, ends)


def _merged(signature: Signature, given: _Given) -> dict[str, Any]:
    """The options of a signature under those of the canvas around it, without links and what is Celery's own."""
    own = {
        name: value
        for name, value in signature.options.items()
        if value is not None and name not in _LINKS and name not in _CELERYS_OWN and name != "task_id"
    }
    stamps = {"stamped_headers", *(own.get("stamped_headers") or ())}
    return {**own, **{name: value for name, value in given.options.items() if name not in own or name not in stamps}}


def _plain_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text)[:_LONGEST_NAME] or "step"
