"""Starts runs in Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from orchestrator.core.clock import to_ms
from orchestrator.core.errors import UnknownWorkflow, WorkflowExists
from orchestrator.core.forks import lazy_property
from orchestrator.registry.outdated_workers import refuse_outdated
from orchestrator.registry.registry import OutdatedIncarnation
from orchestrator.transport.redis.command_connection import CommandConnection
from orchestrator.transport.redis.lost_answers import again_if_lost
from orchestrator.transport.redis.script_events import unwrap_reply
from orchestrator.transport.store import Store
from orchestrator.workflows.compiling.compiler import CompiledWorkflow
from orchestrator.workflows.compiling.plan_writer import PlanWriter, roots_of, write_in_parts
from orchestrator.workflows.fork import ANOTHER_FORK, ForkOrigin
from orchestrator.workflows.redis import scripts
from orchestrator.workflows.redis.agendas import advance
from orchestrator.workflows.redis.fork import write_fork
from orchestrator.workflows.redis.pages import ask
from orchestrator.workflows.redis.run_reads import RedisRunReads


class RedisRunStarts:
    """See :class:`orchestrator.workflows.backend.RunStarts`."""

    def __init__(
        self,
        store: Callable[[], Store],
        reads: RedisRunReads,
        writer: PlanWriter,
        keep_s: float,
        outdated: Callable[[], Sequence[OutdatedIncarnation]],
    ) -> None:
        self._store = store
        self._reads = reads
        self._writer = writer
        self._keep_ms = to_ms(keep_s)
        self._outdated = outdated

    @lazy_property
    def _commands(self) -> CommandConnection:
        # For starts: redis-py's client takes more time than the script.
        return CommandConnection(self._store().pool)

    def start(
        self, compiled: CompiledWorkflow, workflow_id: str, deadline_s: float | None, *, is_new: bool = False
    ) -> str:
        """Write the plan, if it is large in parts, and start the run in one step; an ``is_new`` id has no run yet."""
        store = self._store()
        if not is_new and (known := self._running(store, compiled, workflow_id)) is not None:
            return known
        # Repeated with another uid, because the first plan may be there: of one id there is one run.
        uid, left = again_if_lost(lambda: self._start(store, compiled, workflow_id, deadline_s))
        if left:
            advance(store, uid)
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
            started, left = ask(store, lambda: self._commands.run(*call))
        else:
            with store.client.pipeline(transaction=False) as pipe:
                write_in_parts(pipe, store.keys.run(uid), texts)
                started, left = ask(store, lambda: _execute_with(pipe, store, call))
        if not started:
            raise WorkflowExists(workflow_id)
        return started.decode(), left

    def _running(self, store: Store, compiled: CompiledWorkflow, workflow_id: str) -> str | None:
        """The run that has the id already, so that its plan is not written for nothing."""
        uid = self._reads.uid_of(workflow_id)
        if uid is None:
            return None
        fingerprint = ask(store, lambda: store.client.hget(store.keys.run(uid), "fingerprint"))
        if fingerprint is None:
            return None
        if fingerprint.decode() != compiled.fingerprint:
            raise WorkflowExists(workflow_id)
        return uid

    def fork(self, uid: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        """Copy the plan and the outcomes that are kept, in parts, and start the run in one step."""
        new = secrets.token_hex(8)
        return again_if_lost(lambda: self._fork(uid, new, after, workflow_id, deadline_s))

    def _fork(self, uid: str, new: str, after: str, workflow_id: str, deadline_s: float | None) -> str:
        store, known = self._store(), self._reads.uid_of(workflow_id)
        if known == new:
            # Its answer was lost.
            advance(store, new)
            return new
        origin = ForkOrigin(uid, after, None if deadline_s is None else to_ms(deadline_s))
        if known is not None and self._reads.status(known) is not None:
            # Also if it has ended, as `start` does.
            return self._same_fork(store, known, origin, workflow_id)
        written = ask(store, lambda: write_fork(store, new, origin, workflow_id))
        if written is None:
            raise UnknownWorkflow(uid)
        call = scripts.start_run(store.keys, new, workflow_id, written.fingerprint, written.roots, origin.deadline_ms)
        started, left = store.run(*call)
        if started.decode() != new:
            return self._same_fork(store, started.decode(), origin, workflow_id)
        if left:
            advance(store, new)
        return new

    @staticmethod
    def _same_fork(store: Store, known: str, origin: ForkOrigin, workflow_id: str) -> str:
        """The run that has the id already, if it is the same fork."""
        fields = origin.fields()
        stored = ask(store, lambda: store.client.hmget(store.keys.run(known), list(fields)))
        if stored != [value.encode() for value in fields.values()]:
            raise WorkflowExists(workflow_id, ANOTHER_FORK)
        return known


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
