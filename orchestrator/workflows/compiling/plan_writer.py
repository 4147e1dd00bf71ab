"""Writes the plans of runs to Redis: the fields of a run, its steps, and the templates of their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

from celery import Celery

from orchestrator.core.clock import to_ms
from orchestrator.core.keys import GROUP
from orchestrator.core.workflows.placement import Candidate
from orchestrator.core.workflows.plan import StepPlan, ranges_text
from orchestrator.core.workflows.run_state import RunState
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import BatchPublishError
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.compiler import CompiledStep, CompiledWorkflow
from orchestrator.workflows.compiling.plan_templates import NONCE, RunTemplates, Templates
from orchestrator.workflows.definition import LimitStrategy

#: How long a plan that is being written is kept.
WRITING_MS: Final = 600_000

#: Steps that one command writes; and what the script that starts a run writes of it: plans and templates, and their
#: bytes.
_STEPS_AT_ONCE: Final = 200
_BYTES_AT_ONCE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class RunTexts:
    """The texts of a new run: the fields of its hash, and its plan."""

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
        self._templates = Templates(app, store, hidden)

    def texts_of_run(self, compiled: CompiledWorkflow, workflow_id: str, *, keep_ms: int) -> RunTexts:
        """The texts to be written of a new run.

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
            raise store.failure(error) from error
        return RunTexts(run, templates, texts, queues)

    def texts_of(self, steps: Sequence[CompiledStep], first: int, nonce: str) -> tuple[dict[str, str], dict[str, str]]:
        """The plans of steps whose numbers begin with ``first``, and their templates, for a run with that nonce.

        Raises:
            BrokerUnavailable, InvalidMessage, MessageTooLarge, InvalidWorkflow: as :meth:`texts_of_run`.
        """
        try:
            texts, templates, _ = self._templates.texts("expansion", steps, first)
        except BatchPublishError as error:
            raise self._store().failure(error) from error
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
        own, candidates, templates = RunTemplates(self._templates, "placement"), [], {}
        try:
            for message in messages:
                number, text, queue, level = own.candidate(message.task, message, has_references)
                candidates.append(Candidate(message.supervision.agent, number, queue, level))
                templates[number] = text.replace(f"@{NONCE}:", f"@{nonce}:")
        except BatchPublishError as error:
            raise self._store().failure(error) from error
        return candidates, templates


def write_in_parts(pipe: Any, key: str, texts: RunTexts) -> None:
    """Put into a pipeline what writes a run in state ``writing``; it expires if it is not started in ten minutes."""
    write_expiring(pipe, key, texts.fields)
    for some in chunks(texts.plan.items(), _STEPS_AT_ONCE):
        write_expiring(pipe, f"{key}:plan", dict(some))
    if texts.templates:
        write_expiring(pipe, f"{key}:templates", texts.templates)


def write_expiring(pipe: Any, key: str, values: Mapping[str, Any]) -> None:
    """Put into a pipeline what writes fields of a hash that expires, both or none: a writer may be killed between."""
    pipe.execute_command("MULTI")
    pipe.execute_command("HSET", key, *chain.from_iterable(values.items()))
    pipe.execute_command("PEXPIRE", key, WRITING_MS)
    pipe.execute_command("EXEC")


def roots_of(compiled: CompiledWorkflow) -> str:
    """The numbers of the steps that depend on nothing."""
    return ranges_text(n for n, step in enumerate(compiled.steps) if step.plan.dependencies == 0)


def waits_of(plans: Iterable[tuple[str, StepPlan]]) -> dict[str, str]:
    """The part of a plan that describes its events: the numbers of the steps that wait for each."""
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
