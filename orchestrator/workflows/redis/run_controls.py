"""Acts on runs in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.transport.redis.commands import Attempt
from orchestrator.transport.redis.lost_answers import Callers
from orchestrator.transport.store import Store
from orchestrator.workflows.redis import scripts
from orchestrator.workflows.redis.agendas import advance


class RedisRunControls:
    """See :class:`orchestrator.workflows.backend.RunControls`."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store
        self._callers = Callers()

    def control(self, uid: str, action: str, value: str = "", payload: str = "") -> str:
        """See :class:`RunControls`."""
        store = self._store()

        def act(attempt: Attempt | None) -> Any:
            return store.run(*scripts.control_run(store.keys, uid, action, value, payload, attempt=attempt))

        if action == "time":
            # A timer is there until it has been acted on.
            result, left = act(None)
        else:
            result, left = self._callers.run(store.keys, act)
        if left:
            advance(store, uid)
        return str(result.decode())

    def delete(self, uid: str, *, force: bool = False) -> str:
        """See :class:`RunControls`."""
        store = self._store()
        while True:
            result: bytes = self._callers.run(
                store.keys,
                lambda attempt: store.run(*scripts.delete_run(store.keys, uid, attempt, force=force)),
            )
            if result != b"busy":
                return result.decode()
            advance(store, uid)

    def set_paused(self, name: str, *, paused: bool) -> bool:
        """See :class:`RunControls`."""
        store = self._store()
        changed = self._callers.run(
            store.keys, lambda attempt: store.run(*scripts.set_paused(store.keys, name, attempt, paused=paused))
        )
        return bool(changed)
