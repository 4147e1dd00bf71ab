"""Writes a compiled workflow to Redis: its plan, and one template for all messages that differ in little."""

from __future__ import annotations

import json
import secrets
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from celery import Celery
from redis.exceptions import RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BrokerUnavailable, InvalidWorkflow, MessageTooLarge
from orchestrator.core.keys import GROUP
from orchestrator.core.run import RunState
from orchestrator.core.workflow_plan import StepPlan, ranges_text
from orchestrator.sending.message_template import MessageTemplate, encode, write_template
from orchestrator.sending.message_texts import reprs_of
from orchestrator.sending.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.publish import headers_of, library_errors, producer_of
from orchestrator.transport.producer_batch import BatchPublishError, open_batch
from orchestrator.transport.store import Store
from orchestrator.workflows.compiler import CompiledStep, CompiledWorkflow

#: How long a plan that is being written is kept.
_WRITING_MS: Final = 600_000

#: Steps that one command writes.
_STEPS_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class _Written:
    """What a step's message adds to its plan."""

    template: str
    queue: str
    level: str
    body: str
    args: str
    kwargs: str


def write_plan(
    app: Celery,
    store: Store,
    compiled: CompiledWorkflow,
    uid: str,
    workflow_id: str,
    hidden: tuple[str, ...],
    *,
    keep_ms: int,
) -> None:
    """Write a run in state ``writing``; it is dropped if it is not started within ten minutes.

    Raises:
        BrokerUnavailable: Redis did not take it.
        InvalidMessage: a message's arguments are not JSON data.
        MessageTooLarge: a message is larger than one may be.
        InvalidWorkflow: a message cannot be a step's.
    """
    nonce = secrets.token_hex(4)
    templates = _Templates(app, store, hidden, nonce, uid, workflow_id, compiled.name)
    key = store.keys.run(uid)
    run: dict[Any, Any] = {
        "id": workflow_id, "name": compiled.name, "state": RunState.WRITING.value, "root": store.keys.root,
        "group": GROUP, "nonce": nonce, "on_failure": compiled.on_failure.value, "fingerprint": compiled.fingerprint,
        "total": len(compiled.steps), "keep_ms": keep_ms, "outcome_ttl_ms": to_ms(store.options.outcome_ttl_s),
        "waits": ",".join(str(n) for n, step in enumerate(compiled.steps) if step.plan.options.get("event")),
    }  # fmt: skip
    try:
        with producer_of(app) as producer, open_batch(producer) as batch:
            texts = dict(_texts(compiled.steps, templates, batch))
        with store.client.pipeline(transaction=False) as pipe:
            pipe.hset(key, mapping=run)
            for some in _chunks(texts.items(), _STEPS_AT_ONCE):
                pipe.hset(f"{key}:plan", mapping=dict(some))
            if templates.texts:
                pipe.hset(f"{key}:templates", mapping={str(n): text for n, text in enumerate(templates.texts)})
            for part in ("", ":plan", ":templates"):
                pipe.pexpire(key + part, _WRITING_MS)
            pipe.execute()
    except BatchPublishError as error:
        raise BrokerUnavailable(store.url, error) from error
    except RedisError as error:
        raise BrokerUnavailable(store.url, error) from error


def roots_of(compiled: CompiledWorkflow) -> str:
    """The numbers of the steps that depend on nothing."""
    return ranges_text(n for n, step in enumerate(compiled.steps) if step.plan.dependencies == 0)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _texts(steps: tuple[CompiledStep, ...], templates: _Templates, batch: Any) -> Iterator[tuple[str, str]]:
    for number, step in enumerate(steps):
        plan = step.plan
        if step.message is not None:
            plan = _with(plan, templates.written(plan.name, step.message, step.has_references, batch))
        yield str(number), plan.to_text()
        if step.undo is not None:
            undo = StepPlan(f"{plan.name}.undo")
            yield f"u{number}", _with(undo, templates.written(undo.name, step.undo, True, batch)).to_text()


def _with(plan: StepPlan, written: _Written) -> StepPlan:
    return replace(
        plan,
        template=written.template,
        queue=written.queue,
        level=written.level,
        body=written.body,
        args=written.args,
        kwargs=written.kwargs,
    )


class _Templates:
    """One template for each kind of message; messages that differ in name, arguments and id share one."""

    def __init__(
        self, app: Celery, store: Store, hidden: tuple[str, ...], nonce: str, uid: str, workflow_id: str, name: str
    ) -> None:
        self.texts: list[str] = []
        self._app = app
        self._store = store
        self._hidden = hidden
        self._nonce = nonce
        self._run = {"uid": uid, "id": workflow_id}
        self._workflow = name
        self._known: dict[Hashable, tuple[str, MessageTemplate]] = {}

    def written(self, name: str, message: OutgoingMessage, has_references: bool, batch: Any) -> _Written:
        """A message as a step's plan has it; its template is written if it is the first of its kind."""
        reprs = reprs_of(message, self._hidden)
        kind = _kind(message, has_references)
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = self._write(name, message, has_references, reprs, batch)
        number, template = known
        body = template.body(encode(list(message.args)).encode(), encode(dict(message.kwargs)).encode())[1:-1]
        limit = self._store.options.max_message_bytes
        size = len(self.texts[int(number)]) + len(body)
        if limit and size > limit:
            raise MessageTooLarge(size, limit)
        queue = queue_name(message) if message.queue is not None else json.loads(template.values["queue"])
        shown = [encode(text)[1:-1] for text in reprs]
        return _Written(number, queue, template.step, body, *shown)

    def _write(
        self, name: str, message: OutgoingMessage, has_references: bool, reprs: tuple[str, str], batch: Any
    ) -> tuple[str, MessageTemplate]:
        run = {**self._run, "step": self._slot("step"), "name": name if name.endswith(".undo") else self._slot("name")}
        if has_references:
            run["refs"] = "1"
        message = replace(message, id=self._slot("id"), supervision=replace(message.supervision, run=run))
        with library_errors(self._app, message.task), headers_of(message) as headers:
            template = write_template(self._app, message, headers, reprs, batch)
        if template is None or not template.lasting:
            problem = f"step {name!r}: {message.task} is not sent to one mailbox as plain JSON; allowed: that"
            raise InvalidWorkflow(self._workflow, [problem])
        slots = {part: f'"{self._slot(part)}"' for part in ("id", "body", "args", "kwargs")}
        self.texts.append(template.render(root=slots["id"], **slots))
        return str(len(self.texts) - 1), template

    def _slot(self, name: str) -> str:
        return f"@{self._nonce}:{name}@"


def _kind(message: OutgoingMessage, has_references: bool) -> Hashable:
    """What messages of one template have in common."""
    return json.dumps(
        [
            message.task, queue_name(message), message.priority, message.supervision.to_wire(), list(message.link),
            list(message.link_error), dict(message.options), has_references,
        ],
        default=str,
    )  # fmt: skip
