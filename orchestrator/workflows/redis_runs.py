"""Runs in Redis."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Final, TypeVar

from celery import Celery
from redis.exceptions import NoScriptError, RedisError

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import BrokerUnavailable, UnknownWorkflow, WorkflowExists
from orchestrator.core.expansion import Expanded
from orchestrator.core.forks import lazy_property
from orchestrator.core.outcome import Outcome
from orchestrator.core.run_calls import CallList, Suspended
from orchestrator.core.run_state import RunState
from orchestrator.core.workflow_plan import Kind, StepPlan
from orchestrator.registry.outdated_workers import refuse_outdated
from orchestrator.registry.registry import OutdatedIncarnation
from orchestrator.sending.address import Directory
from orchestrator.sending.lost_answers import LostAnswers, again_if_lost
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.patience import OUTAGE_S, outlast, sleep_on
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.store import Store
from orchestrator.workflows import scripts
from orchestrator.workflows.compiler import CompiledWorkflow
from orchestrator.workflows.expansion import Compile, NewSteps
from orchestrator.workflows.function_calls import NewCalls
from orchestrator.workflows.function_history import History, history_of
from orchestrator.workflows.placing import Placing, candidates_in
from orchestrator.workflows.plan_writer import PlanWriter, roots_of, write_in_parts
from orchestrator.workflows.records import (
    RunDetails,
    RunStatus,
    UndoRecord,
    failed_undos,
    is_step,
    status_from,
    step_records,
    undo_records,
)
from orchestrator.workflows.redis_expansion import write_calls, write_expansion
from orchestrator.workflows.redis_fork import write_fork
from orchestrator.workflows.step_arguments import final_from_redis, outcome_in_run, readers, run_gone

T = TypeVar("T")

#: Runs, and steps, that one command reads.
_PAGE: Final = 500

#: Definitions whose steps' numbers are kept.
_DEFINITIONS: Final = 20

#: Runs that are gone on with in one round.
_BUSY: Final = 200

#: Seconds for which one sweep goes on with runs: the dead are more urgent.
_WORK_S: Final = 0.4


class RedisRuns:
    """Starts runs, reads them and acts on them; see :class:`orchestrator.workflows.records.RunsBackend`."""

    def __init__(
        self,
        app: Celery,
        store: Callable[[], Store],
        directory: Directory,
        hidden: tuple[str, ...],
        keep_s: float,
        outdated: Callable[[], Sequence[OutdatedIncarnation]] = tuple,
        *,
        result_limit_bytes: int,
    ) -> None:
        self.result_limit_bytes = result_limit_bytes
        self._outdated = outdated
        self._open_store = store
        self._writer = PlanWriter(app, store, hidden)
        self._placing = Placing(store, directory, self._writer, self.advance)
        self._keep_ms = to_ms(keep_s)
        self._numbers: dict[tuple[bytes, bytes], Mapping[str, tuple[str, bool]]] = {}
        self._lost_answers = LostAnswers()

    @property
    def _store(self) -> Store:
        return self._open_store()

    @lazy_property
    def _commands(self) -> CommandConnection:
        # For starts: redis-py's client takes more time than the script.
        return CommandConnection(self._store.pool)

    def start(
        self, compiled: CompiledWorkflow, workflow_id: str, deadline_s: float | None, *, is_new: bool = False
    ) -> str:
        """Write the plan, if it is large in parts, and start the run in one step; an ``is_new`` id has no run yet."""
        store = self._store
        if not is_new and (known := self._running(store, compiled, workflow_id)) is not None:
            return known
        # Repeated with another uid, because the first plan may be there: of one id there is one run.
        uid, left = again_if_lost(lambda: self._start(store, compiled, workflow_id, deadline_s))
        if left:
            self.advance(uid)
        return uid

    def _start(
        self, store: Store, compiled: CompiledWorkflow, workflow_id: str, deadline_s: float | None
    ) -> tuple[str, int]:
        uid, deadline_ms = secrets.token_hex(8), None if deadline_s is None else to_ms(deadline_s)
        texts = self._writer.texts_of_run(compiled, workflow_id, keep_ms=self._keep_ms)
        refuse_outdated(self._outdated(), texts.queues, "begin no step after those that it handles")
        along = texts if texts.is_small else None
        call = scripts.start_run(
            store.keys, uid, workflow_id, compiled.fingerprint, roots_of(compiled), deadline_ms, along
        )
        if along is not None:
            started, left = self._ask(lambda: self._commands.run(*call))
        else:
            with store.client.pipeline(transaction=False) as pipe:
                write_in_parts(pipe, store.keys.run(uid), texts)
                started, left = self._ask(lambda: _execute_with(pipe, store, call))
        if not started:
            raise WorkflowExists(workflow_id)
        return started.decode(), left

    def expand(self, compile_steps: Compile, new: NewSteps, run: Mapping[str, Any]) -> Expanded | None:
        """See :class:`RunsBackend`."""
        return self._outlast(lambda: write_expansion(self._store, self._writer, compile_steps, new, run))

    def history(self, run: Mapping[str, Any]) -> History:
        """See :class:`RunsBackend`."""
        store, uid = self._store, str(run["uid"])

        def read_some(numbers: Sequence[str]) -> list[Any]:
            found = store.run(*scripts.read_outcomes(store.keys, uid, numbers))
            return [json.loads(text) if text else None for text in found]

        def read() -> History:
            key = store.keys.run(uid)
            raw: Any = store.client.hget(f"{key}:calls", str(run["step"]))
            if raw is None and not store.client.exists(key):
                raise run_gone(run)
            calls = CallList.from_text(None if raw is None else raw.decode())
            return history_of(run, calls, read_some, *readers(store, uid))

        history: History = self._outlast(lambda: self._ask(read))
        return history

    def suspend(self, compile_steps: Compile, calls: NewCalls, run: Mapping[str, Any]) -> Suspended:
        """See :class:`RunsBackend`."""
        return self._outlast(lambda: write_calls(self._store, self._writer, compile_steps, calls, run))

    def _running(self, store: Store, compiled: CompiledWorkflow, workflow_id: str) -> str | None:
        """The run that has the id already, so that its plan is not written for nothing."""
        uid = self.uid_of(workflow_id)
        if uid is None:
            return None
        fingerprint = self._ask(lambda: store.client.hget(store.keys.run(uid), "fingerprint"))
        if fingerprint is None:
            return None
        if fingerprint.decode() != compiled.fingerprint:
            raise WorkflowExists(workflow_id)
        return uid

    def advance(self, uid: str, budget_s: float | None = None) -> None:
        """Work off a run's agenda, for at most ``budget_s`` seconds.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store
        until = None if budget_s is None else monotonic() + budget_s
        while store.run(*scripts.advance_run(store.keys, uid)):
            if until is not None and monotonic() > until:
                return

    def fork(self, uid: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        """Copy the plan and the outcomes that are kept, in parts, and start the run in one step."""
        said = ("fork", uid, after, workflow_id)
        return self._lost_answers.run(
            self._store, said, lambda attempt: self._fork(uid, attempt.token, after, workflow_id, deadline_s)
        )

    def _fork(self, uid: str, new: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        store, known = self._store, self.uid_of(workflow_id)
        if known == new:
            # Its answer was lost.
            self.advance(new)
            return new
        if known is not None and self.status(known) is not None:
            raise WorkflowExists(workflow_id)
        written = self._ask(lambda: write_fork(store, self._scan, uid, new, after, workflow_id))
        if written is None:
            raise UnknownWorkflow(uid)
        deadline_ms = None if deadline_s is None else to_ms(deadline_s)
        call = scripts.start_run(store.keys, new, workflow_id, written.fingerprint, written.roots, deadline_ms)
        started, left = store.run(*call)
        if started.decode() != new:
            raise WorkflowExists(workflow_id)
        if left:
            self.advance(new)
        return new

    def uid_of(self, workflow_id: str) -> str | None:
        """See :class:`RunsBackend`."""
        store = self._store
        uid: Any = self._ask(lambda: store.client.hget(store.keys.runs_by_id, workflow_id))
        return None if uid is None else uid.decode()

    def status(self, uid: str) -> RunStatus | None:
        """See :class:`RunsBackend`."""
        store = self._store
        raw: Any = self._ask(lambda: store.client.hgetall(store.keys.run(uid)))
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        return status_from(uid, fields) if "id" in fields else None

    def details(self, uid: str) -> RunDetails | None:
        """See :class:`RunsBackend`."""
        status = self.status(uid)
        if status is None:
            return None
        key = self._store.keys.run(uid)
        states = dict(self._scan(f"{key}:states"))
        texts = self._scan(f"{key}:plan")
        plans = {number: StepPlan.from_text(text) for number, text in texts if is_step(number)}
        maps = {number: [int(n) for n in text.split(",")] for number, text in self._scan(f"{key}:maps")}
        declared: Any = self._ask(lambda: self._store.client.hget(key, "declared"))
        candidates = self._ask(lambda: candidates_in(self._store, uid, plans))
        posted = sorted(event for event, _ in self._scan(f"{key}:events"))
        steps = step_records(plans, states, maps, int(declared or status.total), candidates)
        return RunDetails(status, steps, tuple(posted), self._undos(status, plans, states))

    def _undos(
        self, status: RunStatus, plans: Mapping[str, StepPlan], states: Mapping[str, str]
    ) -> tuple[UndoRecord, ...]:
        key, owed = f"{self._store.keys.run(status.uid)}:undo", []
        if status.state is RunState.COMPENSATING:
            raw: Any = self._ask(lambda: self._store.client.lrange(key, 0, -1))
            owed = [step.decode() for step in raw]
        outcomes = {step: self.outcome(status.uid, step) for step in failed_undos(states)[:_PAGE]}
        return undo_records(plans, states, owed, outcomes)

    def outcome(self, uid: str, number: str) -> Outcome | None:
        """See :class:`RunsBackend`."""
        store = self._store
        raw: Any = self._ask(lambda: store.client.hget(f"{store.keys.run(uid)}:outcomes", number))
        return None if raw is None else outcome_in_run(json.loads(raw), *readers(store, uid))

    def item_count(self, uid: str, number: str) -> int:
        """See :class:`RunsBackend`."""
        store = self._store
        raw: Any = self._ask(lambda: store.client.hget(f"{store.keys.run(uid)}:maps", number))
        return 0 if raw is None else int(raw.split(b",")[2])

    def final(self, uid: str) -> Any:
        """See :class:`RunsBackend`."""
        return final_from_redis(self._store, uid)

    def numbers(self, uid: str) -> Mapping[str, tuple[str, bool]]:
        """See :class:`RunsBackend`. Runs of one definition have the same, which is read once in a process."""
        store, key = self._store, self._store.keys.run(uid)
        definition: Any = tuple(self._ask(lambda: store.client.hmget(key, "fingerprint", "declared")))
        if None in definition:
            return {}
        if definition not in self._numbers:
            texts, declared = self._scan(f"{key}:plan"), int(definition[1])
            plans = {n: StepPlan.from_text(text) for n, text in texts if n.isdigit() and int(n) < declared}
            found = {plan.name: (number, plan.kind is Kind.MAP) for number, plan in plans.items()}
            if len(self._numbers) >= _DEFINITIONS:
                self._numbers.clear()
            self._numbers[definition] = found
        return self._numbers[definition]

    def control(self, uid: str, action: str, value: str = "", payload: str = "") -> str:
        """See :class:`RunsBackend`."""
        store = self._store

        def ask(attempt: Attempt | None) -> Any:
            return store.run(*scripts.control_run(store.keys, uid, action, value, payload, attempt=attempt))

        if action == "time":
            # A timer is there until it has been acted on.
            said, left = ask(None)
        else:
            said, left = self._lost_answers.run(store, (uid, action, value, payload), ask)
        if left:
            self.advance(uid)
        return str(said.decode())

    def delete(self, uid: str, *, force: bool = False) -> str:
        """See :class:`RunsBackend`."""
        store = self._store
        while True:
            said: bytes = self._lost_answers.run(
                store,
                (uid, "delete"),
                lambda attempt: store.run(*scripts.delete_run(store.keys, uid, attempt, force=force)),
            )
            if said != b"busy":
                return said.decode()
            self.advance(uid)

    def set_paused(self, name: str, *, paused: bool) -> bool:
        """See :class:`RunsBackend`."""
        store = self._store
        change = store.client.sadd if paused else store.client.srem
        return bool(self._ask(lambda: change(store.keys.paused_workflows, name)))

    def wait(self, uid: str, timeout_s: float) -> bool:
        """See :class:`RunsBackend`. While Redis is away it waits for that too."""
        until = monotonic() + timeout_s
        store = outlast(until, self._open_store)
        key = f"{store.keys.run(uid)}:ended"
        try:
            raw: Any = outlast(until, lambda: store.client.lindex(key, 0))
            while raw is None and until > monotonic():
                raw = outlast(until, lambda: sleep_on(store.client, key, until))
        except RedisError as error:
            raise BrokerUnavailable(store.url, error) from error
        return raw is not None

    def uids(self) -> Iterator[str]:
        """See :class:`RunsBackend`."""
        store, at = self._store, 0
        while True:
            page: Any = self._ask(lambda at=at: store.client.zrevrange(store.keys.runs, at, at + _PAGE - 1))
            yield from (uid.decode() for uid in page)
            if len(page) < _PAGE:
                return
            at += _PAGE

    def time_came(self, timer: str) -> None:
        """Act on a run's timer that is due, ``UID:STEP`` or ``UID:deadline``.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        uid, _, step = timer.partition(":")
        self.control(uid, "time", step)

    def work_off(self) -> None:
        """What a sweep does for runs: place steps again, and work off agendas that are left.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store
        until = monotonic() + _WORK_S
        self._placing.work_off(until)
        busy: Any = self._ask(lambda: store.client.srandmember(store.keys.busy_runs, _BUSY))
        for uid in busy:
            self.advance(uid.decode(), until - monotonic())
            if monotonic() > until:
                return

    def forget_expired(self) -> int:
        """Remove the runs whose keys have expired from the lists of runs; returns how many.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        store = self._store
        gone = self._expired(list(self.uids()))
        for some in _pages(gone):
            self._ask(lambda some=some: store.client.zrem(store.keys.runs, *some))
        by_id = {uid: workflow_id for workflow_id, uid in self._scan(store.keys.runs_by_id)}
        for some in _pages([by_id[uid] for uid in self._expired(list(by_id))]):
            self._ask(lambda some=some: store.client.hdel(store.keys.runs_by_id, *some))
        return len(gone)

    def _expired(self, uids: list[str]) -> list[str]:
        store, gone = self._store, []
        for some in _pages(uids):
            with store.client.pipeline(transaction=False) as pipe:
                for uid in some:
                    pipe.exists(store.keys.run(uid))
                kept: Any = self._ask(pipe.execute)
            gone += [uid for uid, exists in zip(some, kept, strict=True) if not exists]
        return gone

    def _scan(self, key: str) -> Iterator[tuple[str, str]]:
        store, cursor = self._store, 0
        while True:
            cursor, page = self._ask(lambda cursor=cursor: store.client.hscan(key, cursor, count=_PAGE))
            yield from ((name.decode(), value.decode("utf-8", "replace")) for name, value in page.items())
            if cursor == 0:
                return

    def _outlast(self, command: Callable[[], T]) -> T:
        """What an attempt asks of Redis beside its handler: a Redis that is restarted is not the step's fault."""
        return outlast(monotonic() + OUTAGE_S, command)

    def _ask(self, command: Callable[..., T]) -> Any:
        try:
            return command()
        except RedisError as error:
            raise BrokerUnavailable(self._store.url, error) from error


def _execute_with(pipe: Any, store: Store, call: scripts.Call) -> Any:
    """Execute a pipeline, and a script after it, in one round trip; returns the script's reply."""
    script, keys, args = call
    pipe.evalsha(script.sha, len(keys), *keys, *args)
    *written, reply = pipe.execute(raise_on_error=False)
    for one in written:
        if isinstance(one, Exception):
            raise one
    if isinstance(reply, NoScriptError):
        return store.run(*call)
    if isinstance(reply, Exception):
        raise reply
    return unwrap_reply(reply)


def _pages(items: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(items), _PAGE):
        yield items[at : at + _PAGE]
