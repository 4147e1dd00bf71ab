"""The Lua scripts beside this file, with the sums by which Redis knows them.

Each is one atomic step. They are loaded on every new connection that runs them, so that a restarted server has
them again; a server that forgot them meanwhile answers NOSCRIPT, which the callers mend by loading them again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_SETTLES = ("script_events", "outcome_hooks", "breaker")
_ENDS = ("endings", *_SETTLES)
_ACCEPTS = (*_ENDS, "letters", "mailbox")

#: The parts of each script; only ``entry`` and itself where nothing is said. What comes after a script's own part is
#: not even looked at by Redis where that returns: functions that are not needed are not made.
_PARTS = {
    "publish": ("publish", "entry", *_ACCEPTS, "drop", "publish_bounded"),
    "settle": ("entry", "settle", *_SETTLES, "settle_reply"),
    "settle_with_outcome": ("entry", "settle_with_outcome", *_SETTLES, "settle_with_outcome_reply"),
    "bury": ("entry", *_ENDS, "letters", "bury"),
    "end_later": ("entry", "endings", "end_later"),
    "bury_unsent": ("entry", "endings", "letters", "bury_unsent"),
    "retry": ("entry", *_ENDS, "cancelled", "retry"),
    "delay": ("entry", *_ACCEPTS, "delay"),
    "accept": ("entry", *_ACCEPTS, "accept"),
    "broadcast": ("entry", *_ACCEPTS, "broadcast"),
    "replay": ("entry", *_ACCEPTS, "replay_letters", "replay"),
    "replay_found": ("entry", *_ACCEPTS, "search", "replay_letters", "replay_found"),
    "requeue_held": ("entry", *_ENDS, "letters", "cancelled", "requeue", "requeue_held"),
    "reclaim": ("entry", *_ENDS, "letters", "cancelled", "requeue", "reclaim"),
    "purge": ("entry", "endings", "script_events", "outcome_hooks", "drop", "purge"),
    "delete": ("entry", "endings", "script_events", "outcome_hooks", "drop", "delete"),
    "claim": ("entry", "lineage", "claim"),
    "find": ("entry", "endings", "script_events", "outcome_hooks", "lineage", "find"),
    "close_breaker": ("entry", "script_events", "breaker", "close_breaker"),
    "purge_letters": ("entry", "letters", "purge_letters"),
    "park_letters": ("entry", "letters", "park_letters"),
    "unpark_letters": ("entry", "letters", "unpark_letters"),
    "import_letters": ("entry", "letters", "import_letters"),
    "count_letters": ("entry", "letters", "count_letters"),
    "find_letters": ("entry", "letters", "search", "find_letters"),
    "schedule_letters": ("entry", "letters", "schedule_letters"),
}


@cache
def source(name: str) -> bytes:
    """The script's text, with the shared functions in front."""
    return b"\n".join((_part("clock"), body(name)))


def body(name: str) -> bytes:
    """The script's text but for the clock it goes by."""
    return b"\n".join(map(_part, _PARTS.get(name, ("entry", name))))


def _part(name: str) -> bytes:
    return files(__package__).joinpath("lua", f"{name}.lua").read_bytes()


@cache
def sha(name: str) -> str:
    """The script's SHA-1, as EVALSHA wants it."""
    return hashlib.sha1(source(name), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Script:
    """A script of another part of the library: its text, shared functions included, and its SHA-1."""

    source: bytes
    sha: str


@cache
def own(name: str) -> Script:
    """One of the transport's scripts."""
    return Script(source(name), sha(name))


@cache
def script_of(package: str, *names: str) -> Script:
    """The script made of these files of the package's ``lua`` folder, with the functions shared by all in front."""
    folder = files(package).joinpath("lua")
    text = b"\n".join(
        (_part("clock"), _part("entry"), *(folder.joinpath(f"{name}.lua").read_bytes() for name in names))
    )
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
