"""The templates of a run's messages: one for each kind, from which Redis makes the message of each step."""

from __future__ import annotations

import hashlib
import json
import secrets
from binascii import b2a_base64
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from celery import Celery

from orchestrator.core.errors import InvalidWorkflow, MessageTooLarge
from orchestrator.core.workflows.placement import Candidate, PlacementRecord
from orchestrator.core.workflows.plan import StepPlan
from orchestrator.sending.messages.message_template import MessageTemplate, write_template
from orchestrator.sending.messages.message_texts import reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import headers_of, library_errors, producer_of
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import open_batch
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.compiler import CompiledStep
from orchestrator.workflows.compiling.placement import Placement
from orchestrator.workflows.steps.arguments import inputs_in

#: Marks the placeholders of this process' templates, so that no user's metadata is taken for one.
NONCE: Final = secrets.token_hex(4)

#: The last part of an agent's message's body, as Celery writes it.
_NO_CALLBACKS: Final = b'{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'

#: Most templates in the cache.
_MOST_TEMPLATES: Final = 1000


@dataclass(frozen=True, slots=True)
class _StepMessage:
    """The part of a step's plan that describes its message."""

    template: str
    queue: str
    level: str
    inputs: tuple[int, ...]
    body: str
    args: str
    kwargs: str

    def text_of(self, plan: StepPlan) -> str:
        """The plan with this message, as Redis keeps it."""
        return plan.text_with(self.template, self.queue, self.level, self.inputs, self.body, self.args, self.kwargs)


class Templates:
    """One template for each kind of message; messages that differ in run, name, arguments and id share one."""

    def __init__(self, app: Celery, store: Callable[[], Store], hidden: tuple[str, ...]) -> None:
        self._app = app
        self._store = store
        self._hidden = hidden
        self._known: dict[Hashable, tuple[str, str, MessageTemplate]] = {}

    def texts(
        self, workflow: str, compiled: Sequence[CompiledStep], first: int
    ) -> tuple[dict[str, str], dict[str, str], set[str]]:
        """The texts of the steps by number, from ``first`` on; the texts of the templates by number; the mailboxes."""
        own = RunTemplates(self, workflow)
        steps: dict[str, str] = {}
        for number, step in enumerate(compiled, first):
            plan = step.plan
            if step.message is not None:
                text = own.step_message(plan.name, step.message, step.has_references).text_of(plan)
            elif step.placement is not None:
                text = own.placed_message(plan.name, step.placement, step.has_references).text_of(plan)
            else:
                text = plan.to_text()
            steps[str(number)] = text
            if step.undo is not None:
                undo = StepPlan(f"{plan.name}.undo")
                message = own.step_message(undo.name, step.undo, step.undo_has_references)
                steps[f"u{number}"] = message.text_of(undo)
            elif step.undo_placement is not None:
                undo = StepPlan(f"{plan.name}.undo", options=step.undo_placement.plan_options)
                message = own.placed_message(undo.name, step.undo_placement, has_references=False)
                steps[f"u{number}"] = message.text_of(undo)
        return steps, own.texts, own.queues

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


class RunTemplates:
    """The templates that one run needs, by their numbers, and the mailboxes of their messages."""

    def __init__(self, known: Templates, workflow: str) -> None:
        self.texts: dict[str, str] = {}
        self.queues: set[str] = set()
        self._known = known
        self._workflow = workflow
        #: Templates by the parts of messages that many steps share, which is faster than by their content.
        self._shared: dict[Hashable, tuple[str, str, MessageTemplate]] = {}
        #: These parts, so that no other object gets the id of one.
        self._alive: list[Any] = []

    def step_message(self, name: str, message: OutgoingMessage, has_references: bool) -> _StepMessage:
        """The part of the plan of the step ``name`` that describes its message."""
        number, text, template = self._template(name, message, has_references)
        self.texts[number] = text
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
        return _StepMessage(number, queue, template.level, inputs, body, *self._known.shown(message))

    def placed_message(self, name: str, placement: Placement, has_references: bool) -> _StepMessage:
        """The same for a step that says what it needs: in the place of its template is the number of its placement."""
        candidates = []
        for message in placement.candidates:
            number, text, queue, level = self.candidate(name, message, has_references)
            self.texts[number] = text
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
        self.texts[number] = text
        message = placement.unaddressed()
        with library_errors(self._known._app, placement.message):
            args = encode(list(message.args)).encode()
            body = b2a_base64(b"[%b, {}, %b]" % (args, _NO_CALLBACKS), newline=False).decode()
        self._known.check_size(max(map(len, self.texts.values())) + len(body))
        inputs = inputs_in(message.args) if has_references else ()
        return _StepMessage(number, "", "", inputs, body, *self._known.shown(message))

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
    """The parts that messages of one template have in common."""
    return json.dumps(
        [
            message.task, queue_name(message), message.priority, message.supervision.to_wire(), list(message.link),
            list(message.link_error), dict(message.options), has_references,
        ],
        default=str,
    )  # fmt: skip
