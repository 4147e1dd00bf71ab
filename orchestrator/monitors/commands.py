"""The scripts of monitors as typed functions: each puts keys and arguments into the order that its script expects.

A function returns a :data:`~orchestrator.transport.redis.commands.Call`, to be run by the monitors:
``self.run(*commands.demonitor(...))``. What a script does, returns and costs is in its header, ``lua/commands/*.lua``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.core.keys import Keys
from orchestrator.transport.redis.commands import Attempt, Call


@dataclass(frozen=True, slots=True)
class DownSending:
    """The parameters with which scripts send DOWNs."""

    #: The message, with places to fill in.
    template: str
    #: The step of mailboxes that it goes into.
    level: str
    #: The supervision of DOWNs to an agent for which none is recorded, as JSON.
    supervision: str

    def args(self, keys: Keys) -> list[str]:
        """The first arguments of each script that records DOWNs."""
        return [keys.root, self.template, self.level, self.supervision]


@dataclass(frozen=True, slots=True)
class WantedMonitor:
    """A monitor to be created."""

    target: str
    tag: str
    #: The target's incarnations on which it is.
    incarnations: tuple[str, ...]


def create(
    keys: Keys,
    sending: DownSending,
    owner: str,
    agent: str,
    wanted: Iterable[WantedMonitor],
    *,
    counter: str,
    origin: str,
    origin_text: str,
    call_id: str,
) -> Call:
    """Create monitors of one owner.

    Args:
        keys: the names of keys.
        sending: how DOWNs are sent.
        owner: the owner.
        agent: the owner's agent, or ''.
        wanted: the monitors.
        counter: the counter of incarnations when agents' names were looked up; '' if none was.
        origin: the place in the code, by its name.
        origin_text: the place itself, unless it is recorded already.
        call_id: the id of this call; a repeated call gets the same reply.
    """
    names = [
        *(keys.monitors, keys.monitor_counter, keys.monitor_owners, keys.monitor_targets, keys.monitor_origins),
        *(keys.incarnation_counter, keys.monitors_of(owner), keys.down_supervision, keys.monitor_answers),
    ]
    args = [*sending.args(keys), owner, agent, counter, origin, origin_text, call_id]
    for one in wanted:
        args += [one.target, one.tag, str(len(one.incarnations)), *one.incarnations]
    return "create", names, args


def demonitor(keys: Keys, ref: int, *, keep_ms: int, attempt: Attempt) -> Call:
    """End a monitor; a DOWN that waits is marked as not wanted for ``keep_ms``, if not 0."""
    names = [keys.monitors, keys.monitor_counter, keys.flushed(ref), attempt.key]
    return "demonitor", names, [keys.root, ref, keep_ms, attempt.token]


def next_down(keys: Keys, session: str, arrived: str) -> Call:
    """Read the first DOWN of a session; ``arrived`` is the ref of the one before, or ''."""
    return "next_down", [keys.downs(session)], [keys.root, session, arrived]


def owner_died(keys: Keys, owner: str, batch: int) -> Call:
    """Remove at most ``batch`` monitors of an owner that is gone."""
    names = [keys.monitors, keys.monitors_of(owner), keys.downs(owner), keys.monitor_owners, keys.monitor_answers]
    return "owner_died", names, [keys.root, owner, batch]


def target_died(keys: Keys, sending: DownSending, target: str, reason: str, batch: int) -> Call:
    """Record DOWNs for at most ``batch`` monitors on an incarnation that is gone."""
    return "target_died", [keys.monitors, keys.monitors_on(target)], [*sending.args(keys), target, reason, batch]


def list_monitors(keys: Keys, key: str, *, scan: Literal["SSCAN", "ZSCAN"], cursor: bytes | int, count: int) -> Call:
    """Read about ``count`` monitors of the set in ``key``; ``cursor`` is 0 at first."""
    return "list_monitors", [key, keys.monitors], [cursor, count, scan]


def find_inconsistent(keys: Keys, *, cursor: bytes | int, count: int) -> Call:
    """Look through about ``count`` monitors for inconsistent ones; ``cursor`` is 0 at first."""
    return "find_inconsistent", [keys.monitors], [keys.root, cursor, count]


def repair(
    keys: Keys, sending: DownSending, suspects: Iterable[tuple[str, str | int, str]], *, repairs: bool, old_ms: int
) -> Call:
    """Judge suspects, and repair those that are leaks if ``repairs``.

    Of each suspect: its kind, its ref, and what else belongs to it. A monitor is old from ``old_ms`` on.
    """
    flat = [part for suspect in suspects for part in suspect]
    return "repair", [keys.monitors], [*sending.args(keys), "repair" if repairs else "judge", old_ms, *flat]
