"""Lua scripts with other texts, however they are run: the texts are changed where they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.transport.redis import scripts

_CACHES = (scripts.script_of, scripts.sha, scripts.own)


@contextmanager
def changed_scripts(change: Callable[[str, bytes], bytes]) -> Iterator[None]:
    """Have each command and each include be what ``change`` makes of its name and its text."""
    read = scripts._read

    def read_changed(folders: Any, name: str) -> bytes:
        return change(name, read(folders, name))

    _forget()
    scripts._read = read_changed
    try:
        yield
    finally:
        scripts._read = read
        _forget()


def _forget() -> None:
    for cache in _CACHES:
        cache.cache_clear()
