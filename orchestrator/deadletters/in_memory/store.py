"""The dead-letter log of eager mode. Its backend adds letters, where deliveries end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.deadletters.in_memory.editor import InMemoryLetterEditor
from orchestrator.deadletters.in_memory.replayer import InMemoryLetterReplayer
from orchestrator.deadletters.in_memory.schedule import InMemoryReplaySchedule
from orchestrator.deadletters.letter_row import audit_id_of, letter_row


class InMemoryDeadLetterStore(InMemoryLetterReplayer, InMemoryLetterEditor, InMemoryReplaySchedule):
    """Implements :class:`~.store.DeadLetterStore`; its arguments: see :class:`~.in_memory_letters.InMemoryLetters`."""

    def add(self, raw: bytes, letter: Mapping[str, Any]) -> str:
        """Add a message that died, and why; returns the letter's id."""
        row = letter_row(raw, letter)
        with self._lock:
            if (progress := self._progress.get(audit_id_of(row))) is not None:
                progress["dead"] += 1
            return self._add(row)
