"""Workers of an older version: they would record an outcome, and not do what is to follow on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from orchestrator.core.errors import OutdatedWorker
from orchestrator.registry.registry import OutdatedIncarnation


def refuse_outdated(outdated: Iterable[OutdatedIncarnation], queues: Collection[str], would: str) -> None:
    """Refuse what sends messages to these mailboxes if an outdated worker would handle some of them.

    ``would`` says what that worker would do, for the error.

    Raises:
        OutdatedWorker: there is such a worker; the first one is named.
    """
    for one in outdated:
        for queue in one.queues:
            if queue in queues:
                raise OutdatedWorker(one.id, one.library_version, queue, would)
