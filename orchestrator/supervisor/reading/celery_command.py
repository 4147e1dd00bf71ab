"""A Celery worker in a command, as a Procfile has it: ``celery -A shop worker``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_APP_OPTIONS = ("-A", "--app")


@dataclass(frozen=True, slots=True)
class CeleryWorker:
    """The worker that a command starts."""

    #: Empty if the command names none.
    app: str
    #: Whether the worker is the process itself, and not one that another program (``uv run``) starts.
    is_direct: bool


def worker_in(words: Sequence[str]) -> CeleryWorker | None:
    """The worker that a command starts; ``None`` of any other command."""
    at = next((number for number, word in enumerate(words) if Path(word).name == "celery"), None)
    if at is None or "worker" not in words[at + 1 :]:
        return None
    by_module = at == 2 and words[1] == "-m" and Path(words[0]).name.startswith("python")
    return CeleryWorker(_app_in(words[at + 1 :]), at == 0 or by_module)


def _app_in(words: Sequence[str]) -> str:
    for number, word in enumerate(words):
        if word in _APP_OPTIONS:
            return words[number + 1] if number + 1 < len(words) else ""
        if word.startswith("--app="):
            return word.partition("=")[2]
        if word.startswith("-A"):
            return word[2:]
    return ""
