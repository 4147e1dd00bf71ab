"""Writes a compiled workflow to Redis: its plan, and a template for each kind of message."""

from __future__ import annotations

import hashlib
import json
import secrets
from binascii import b2a_base64
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from celery import Celery

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BrokerUnavailable, InvalidWorkflow, MessageTooLarge
from orchestrator.core.keys import GROUP
from orchestrator.core.placement import Candidate, PlacementRecord
from orchestrator.core.run_state import RunState
from orchestrator.core.workflow_plan import StepPlan, ranges_text
from orchestrator.sending.message_template import MessageTemplate, encode, write_template
from orchestrator.sending.message_texts import reprs_of
from orchestrator.sending.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import headers_of, library_errors, producer_of
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.store import Store
from orchestrator.workflows.compiler import CompiledStep, CompiledWorkflow
from orchestrator.workflows.definition import LimitStrategy
from orchestrator.workflows.placement import Placement
from orchestrator.workflows.step_arguments import inputs_in

#: How long a plan that is being written is kept.
WRITING_MS: Final = 600_000

#: Marks the placeholders of this process' templates, so that no user's metadata is taken for one.
NONCE: Final = secrets.token_hex(4)

#: The last part of an agent's message's body, as Celery writes it.
_NO_CALLBACKS: Final = b'{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'

#: Most templates in the cache.
_MOST_TEMPLATES: Final = 1000

#: Steps that one command writes; plans and templates that a script does, and their bytes.
_STEPS_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Written:
    """What a step's message adds to its plan."""

    template: str
    queue: str
    level: str
    inputs: tuple[int, ...]
    body: str
    args: str
    kwargs: str


@dataclass(frozen=True, slots=True)
class RunTexts:
    """What is written of a new run: the fields of its hash, and its plan."""

    fields: dict[str, Any]
    templates: dict[str, str]
    plan: dict[str, str]
    #: The mailboxes of its messages.
    queues: set[str]

    @property
    def is_small(self) -> bool:
        """Whether the script that starts the run can write all of it."""
        texts = [*self.plan.values(), *self.templates.values()]
        return len(texts) <= _STEPS_AT_ONCE and sum(map(len, texts)) <= _BYTES_AT_ONCE


class PlanWriter:
    """Writes the plans of one app's runs. Templates are cached: the messages of many runs are of few kinds."""

    def __init__(self, app: Celery, store: Callable[[], Store], hidden: tuple[str, ...]) -> None:
        self._app = app
        self._store = store
        self._templates = _Templates(app, store, hidden)

    def texts_of_run(self, compiled: CompiledWorkflow, workflow_id: str, *, keep_ms: int) -> RunTexts:
        """What is to be written of a new run.

        Raises:
            BrokerUnavailable: a mailbox could not be declared.
            InvalidMessage: a message's arguments are not JSON data.
            MessageTooLarge: a message is larger than one may be.
            InvalidWorkflow: a message cannot be a step's.
        """
        store = self._store()
        run: dict[str, Any] = {
            "id": workflow_id, "id_json": encode(workflow_id)[1:-1], "name": compiled.name,
            "state": RunState.WRITING.value, "root": store.keys.root, "group": GROUP, "nonce": NONCE,
            "on_failure": compiled.on_failure.value, "fingerprint": compiled.fingerprint,
            "total": len(compiled.steps), "declared": len(compiled.steps), "keep_ms": keep_ms,
            "outcome_ttl_ms": to_ms(store.options.outcome_ttl_s),
        }  # fmt: skip
        if compiled.limit is not None:
            limit = compiled.limit
            run |= {"limit": limit.running, "limit_key": limit.key or compiled.name}
            run["limit_strategy"] = LimitStrategy(limit.strategy).value
        if compiled.final is not None:
            run["final"] = encode(compiled.final)
        try:
            texts, templates, queues = self._templates.texts(compiled.name, compiled.steps, 0)
            texts |= waits_of((str(number), step.plan) for number, step in enumerate(compiled.steps))
        except BatchPublishError as error:
            raise BrokerUnavailable(store.url, error) from error
        return RunTexts(run, templates, texts, queues)

    def texts_of(self, steps: Sequence[CompiledStep], first: int, nonce: str) -> tuple[dict[str, str], dict[str, str]]:
        """The plans of steps whose numbers begin with ``first``, and their templates, for a run with that nonce.

        Raises:
            BrokerUnavailable, InvalidMessage, MessageTooLarge, InvalidWorkflow: as :meth:`commands`.
        """
        try:
            texts, templates, _ = self._templates.texts("expansion", steps, first)
        except BatchPublishError as error:
            raise BrokerUnavailable(self._store().url, error) from error
        own, its = f"@{NONCE}:", f"@{nonce}:"
        return texts, {number: text.replace(own, its) for number, text in templates.items()}

    def candidates_of(
        self, messages: Sequence[OutgoingMessage], nonce: str, *, has_references: bool
    ) -> tuple[list[Candidate], dict[str, str]]:
        """Agents that a step may be placed with, by its messages for them, and the templates of these.

        Raises:
            BrokerUnavailable: Redis is away.
            InvalidWorkflow: a message cannot be a step's.
        """
        writing, candidates, templates = _Writing(self._templates, "placement"), [], {}
        try:
            for message in messages:
                number, text, queue, level = writing.candidate(message.task, message, has_references)
                candidates.append(Candidate(message.supervision.agent, number, queue, level))
                templates[number] = text.replace(f"@{NONCE}:", f"@{nonce}:")
        except BatchPublishError as error:
            raise BrokerUnavailable(self._store().url, error) from error
        return candidates, templates


def write_in_parts(pipe: Any, key: str, texts: RunTexts) -> None:
    """Put into a pipeline what writes a run in state ``writing``; it expires if it is not started in ten minutes."""
    pipe.hset(key, mapping=texts.fields)
    for some in chunks(texts.plan.items(), _STEPS_AT_ONCE):
        pipe.hset(f"{key}:plan", mapping=dict(some))
    if texts.templates:
        pipe.hset(f"{key}:templates", mapping=texts.templates)
    for part in ("", ":plan", ":templates"):
        pipe.pexpire(key + part, WRITING_MS)


def roots_of(compiled: CompiledWorkflow) -> str:
    """The numbers of the steps that depend on nothing."""
    return ranges_text(n for n, step in enumerate(compiled.steps) if step.plan.dependencies == 0)


def waits_of(plans: Iterable[tuple[str, StepPlan]]) -> dict[str, str]:
    """What a plan says of its events: the numbers of the steps that wait for each."""
    waits: dict[str, list[int]] = {}
    for number, plan in plans:
        if plan.options.get("event"):
            waits.setdefault(plan.options["event"], []).append(int(number))
    return {f"event:{event}": ranges_text(numbers) for event, numbers in waits.items()}


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of at most that size."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _text(plan: StepPlan, written: _Written) -> str:
    return plan.text_with(
        written.template, written.queue, written.level, written.inputs, written.body, written.args, written.kwargs
    )


class _Templates:
    """One template for each kind of message; messages that differ in run, name, arguments and id share one."""

    def __init__(self, app: Celery, store: Callable[[], Store], hidden: tuple[str, ...]) -> None:
        self._app = app
        self._store = store
        self._hidden = hidden
        self._known: dict[Hashable, tuple[str, str, MessageTemplate]] = {}

    def texts(
        self, workflow: str, compiled: Sequence[CompiledStep], first: int
    ) -> tuple[dict[str, str], dict[str, str], set[str]]:
        """The texts of steps by their numbers, from ``first`` on, those of templates by theirs, and the mailboxes."""
        writing = _Writing(self, workflow)
        steps: dict[str, str] = {}
        for number, step in enumerate(compiled, first):
            plan = step.plan
            if step.message is not None:
                text = _text(plan, writing.written(plan.name, step.message, step.has_references))
            elif step.placement is not None:
                text = _text(plan, writing.placed(plan.name, step.placement, step.has_references))
            else:
                text = plan.to_text()
            steps[str(number)] = text
            if step.undo is not None:
                undo = StepPlan(f"{plan.name}.undo")
                written = writing.written(undo.name, step.undo, step.undo_has_references)
                steps[f"u{number}"] = _text(undo, written)
            elif step.undo_placement is not None:
                undo = StepPlan(f"{plan.name}.undo", options=step.undo_placement.plan_options)
                written = writing.placed(undo.name, step.undo_placement, has_references=False)
                steps[f"u{number}"] = _text(undo, written)
        return steps, writing.templates, writing.queues

    def of(self, workflow: str, message: OutgoingMessage, has_references: bool) -> tuple[str, str, MessageTemplate]:
        """The template of a message's kind: its number, its text, and what it was made from."""
        kind = _kind(message, has_references)
        known = self._known.get(kind)
        if known is None:
            if len(self._known) >= _MOST_TEMPLATES:
                self._known.clear()
            text, template = self._write(workflow, message, has_references)
            # A running number would repeat after the cache is cleared.
            number = hashlib.sha256(text.encode()).hexdigest()[:8]
            known = self._known[kind] = number, text, template
        return known

    def _write(self, workflow: str, message: OutgoingMessage, has_references: bool) -> tuple[str, MessageTemplate]:
        run = {"uid": _slot("uid"), "id": _slot("run"), "step": _slot("step"), "name": _slot("name")}
        if has_references:
            run["refs"] = _slot("inputs")
        message = replace(message, id=_slot("id"), supervision=replace(message.supervision, run=run))
        with (
            library_errors(self._app, message.task),
            headers_of(message) as headers,
            producer_of(self._app) as producer,
            open_batch(producer) as batch,
        ):
            template = write_template(self._app, message, headers, reprs_of(message, self._hidden), batch)
        if template is None or not template.lasting:
            problem = f"{message.task} is not sent to one mailbox as plain JSON; allowed: that"
            raise InvalidWorkflow(workflow, [problem])
        slots = {part: f'"{_slot(part)}"' for part in ("id", "body", "args", "kwargs")}
        text = template.render(root=slots["id"], **slots)
        # In its place comes a number or an object, not text.
        return text.replace(f'"{_slot("inputs")}"', _slot("inputs")), template

    def check_size(self, size: int) -> None:
        """Refuse a message with more bytes than ``max_message_bytes``.

        Raises:
            MessageTooLarge: it has more.
        """
        limit = self._store().options.max_message_bytes
        if limit and size > limit:
            raise MessageTooLarge(size, limit)

    @property
    def levels(self) -> tuple[str, ...]:
        """The streams of a mailbox."""
        return self._store().levels

    def shown(self, message: OutgoingMessage) -> list[str]:
        """The texts of a message's arguments, as parts of JSON texts."""
        return [encode(text)[1:-1] for text in reprs_of(message, self._hidden)]


class _Writing:
    """The templates that one run needs."""

    def __init__(self, known: _Templates, workflow: str) -> None:
        self.templates: dict[str, str] = {}
        self.queues: set[str] = set()
        self._known = known
        self._workflow = workflow
        #: Templates by the parts of messages that many steps share, which is faster than by their content.
        self._shared: dict[Hashable, tuple[str, str, MessageTemplate]] = {}
        #: These parts, so that no other object gets the id of one.
        self._alive: list[Any] = []

    def written(self, name: str, message: OutgoingMessage, has_references: bool) -> _Written:
        """The part of a step's plan that describes its message."""
        number, text, template = self._template(name, message, has_references)
        self.templates[number] = text
        try:
            kwargs = encode(dict(message.kwargs)).encode() if message.kwargs else b"{}"
            body = template.body(encode(list(message.args)).encode(), kwargs)[1:-1]
        except Exception:
            with library_errors(self._known._app, message.task):
                raise
        self._known.check_size(len(text) + len(body))
        queue = _queue_of(message, template)
        self.queues.add(queue)
        inputs = inputs_in([message.args, message.kwargs]) if has_references else ()
        return _Written(number, queue, template.level, inputs, body, *self._known.shown(message))

    def placed(self, name: str, placement: Placement, has_references: bool) -> _Written:
        """The same for a step that says what it needs: in the place of its template is the number of its placement."""
        candidates = []
        for message in placement.candidates:
            number, text, queue, level = self.candidate(name, message, has_references)
            self.templates[number] = text
            self.queues.add(queue)
            candidates.append(Candidate(message.supervision.agent, number, queue, level))
        record = PlacementRecord(
            placement.needs,
            tuple(candidates),
            self._known.levels,
            placement.within_ms,
            placement.send(has_references=has_references),
        )
        text = record.to_text()
        number = f"p{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        self.templates[number] = text
        message = placement.unaddressed()
        with library_errors(self._known._app, placement.message):
            args = encode(list(message.args)).encode()
            body = b2a_base64(b"[%b, {}, %b]" % (args, _NO_CALLBACKS), newline=False).decode()
        self._known.check_size(max(map(len, self.templates.values())) + len(body))
        inputs = inputs_in(message.args) if has_references else ()
        return _Written(number, "", "", inputs, body, *self._known.shown(message))

    def candidate(self, name: str, message: OutgoingMessage, has_references: bool) -> tuple[str, str, str, str]:
        """The template of a message for an agent: its number and its text; and its mailbox and its stream's level."""
        number, text, template = self._template(name, message, has_references)
        return number, text, _queue_of(message, template), template.level

    def _template(self, name: str, message: OutgoingMessage, has_references: bool) -> tuple[str, str, MessageTemplate]:
        parts = (message.supervision, message.queue, message.link, message.link_error, message.options)
        key = (message.task, message.priority, has_references, *map(id, parts))
        try:
            if key not in self._shared:
                self._shared[key] = self._known.of(self._workflow, message, has_references)
                self._alive.append(parts)
            return self._shared[key]
        except InvalidWorkflow as error:
            raise InvalidWorkflow(self._workflow, [f"step {name!r}: {one}" for one in error.problems]) from None


def _queue_of(message: OutgoingMessage, template: MessageTemplate) -> str:
    return queue_name(message) if message.queue is not None else str(json.loads(template.values["queue"]))


def _slot(name: str) -> str:
    return f"@{NONCE}:{name}@"


def _kind(message: OutgoingMessage, has_references: bool) -> Hashable:
    """What messages of one template have in common."""
    return json.dumps(
        [
            message.task, queue_name(message), message.priority, message.supervision.to_wire(), list(message.link),
            list(message.link_error), dict(message.options), has_references,
        ],
        default=str,
    )  # fmt: skip
