"""`orchestrator.monitors`: its interface, in Redis and in eager mode."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from celery import Celery

from orchestrator.agents.agent import Agent
from orchestrator.core.deliveries.down import Down
from orchestrator.core.errors import InfrastructureError, InvalidPolicy
from orchestrator.core.log import get_logger
from orchestrator.core.spelling.option_names import named_arguments
from orchestrator.monitors.entry import MonitorEntries, MonitorStats, write_tag
from orchestrator.monitors.leak import Leak, Leaks
from orchestrator.worker.execution.owner import Owner, owner_here

logger = get_logger(__name__)

Target = str | type[Agent]


class Session(Protocol):
    """An owner that is not an agent: a web process or a script. Use it as a context manager."""

    @property
    def id(self) -> str: ...
    def monitor(self, target: Target, tag: Any = "") -> int: ...
    def next_down(self, timeout_s: float) -> Down | None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Session: ...
    def __exit__(self, *error: object) -> None: ...


@named_arguments
class Monitors(ABC):
    """Monitors: the owner gets one DOWN when the target has died.

    The owner is the incarnation whose handler runs, or the open session. A target is an agent, by name or
    class, or one incarnation, by id. A monitor on an agent is on the incarnations that host it at that moment; its one
    DOWN comes when the last of them is gone. Those that join later are not monitored by it.

    Every method raises :class:`BrokerUnavailable` while Redis cannot be reached.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def owner_here(self) -> Owner:
        """The owner of a monitor that is created here.

        Raises:
            NoOwner: no handler runs here and no session is open.
        """
        return owner_here()

    def monitor(self, target: Target, tag: Any = "", *, owner: Owner | None = None) -> int:
        """Monitor a target; returns the monitor's ref. If the target is not alive its DOWN comes at once (``noproc``).

        ``tag`` is any JSON data; the DOWN carries it.

        Raises:
            NoOwner: no handler runs here and no session is open.
            OwnerGone: the owner was declared dead, or has ended.
            InvalidPolicy: target or tag is not allowed.
        """
        (ref,) = self._create(owner or self.owner_here(), [(name_of(target), tag_json(tag))])
        return ref

    def monitor_many(self, wanted: Iterable[tuple[Target, Any]], *, owner: Owner | None = None) -> list[int]:
        """Monitor many targets, each with its tag; returns the refs in that order. Raises as :meth:`monitor`.

        If it raises in the middle, the monitors created until then stay.
        """
        return self._create(owner or self.owner_here(), [(name_of(target), tag_json(tag)) for target, tag in wanted])

    @contextmanager
    def monitored(self, target: Target, tag: Any = "") -> Iterator[int | None]:
        """Monitor a target while the block runs; afterwards the monitor and an undelivered DOWN are removed.

        If Redis cannot be reached the block runs all the same, with ``None`` and a warning.

        Raises:
            NoOwner, InvalidPolicy: as :meth:`monitor`.
        """
        ref, pid = None, os.getpid()
        try:
            ref = self.monitor(target, tag)
        except InfrastructureError as error:
            logger.warning("%s is not monitored: %s", name_of(target), error)
        try:
            yield ref
        finally:
            # In a forked child, the block goes on in the parent.
            if ref is not None and pid == os.getpid():
                try:
                    self.demonitor(ref, flush=True)
                except InfrastructureError as error:
                    logger.warning("monitor %d stays until its owner or its target is gone: %s", ref, error)

    @abstractmethod
    def _create(self, owner: Owner, wanted: Sequence[tuple[str, str]]) -> list[int]:
        """Create monitors on targets (by name) with tags (as JSON)."""

    @abstractmethod
    def demonitor(self, ref: int, *, flush: bool = True) -> bool:
        """End a monitor; returns whether there was one. An unknown ref is no error, as in OTP.

        No DOWN is recorded afterwards. With ``flush``, a DOWN that was recorded and not yet handled is not delivered.

        Raises:
            InvalidPolicy: ``ref`` is not what :meth:`monitor` returns, or ``flush`` neither true nor false.
        """

    @abstractmethod
    def is_flushed(self, ref: int) -> bool:
        """Whether the DOWN of a monitor must not be delivered any more."""

    @abstractmethod
    def session(self) -> Session:
        """A session, to be used in a ``with``."""

    @abstractmethod
    def list(
        self, *, owner: str | None = None, target: str | None = None, tag: Any = ..., limit: int = 1000
    ) -> MonitorEntries:
        """Monitors, oldest first. ``owner`` and ``target`` name an incarnation, a session or an agent."""

    @abstractmethod
    def stats(self) -> MonitorStats:
        """Numbers of monitors: active, created, ended and why."""

    @abstractmethod
    def find_leaks(self, age_s: float | None = None) -> Leaks:
        """Monitors without a living owner or target, duplicates, incomplete ones, and old ones, each with proof.

        Old: older than ``age_s`` seconds (default: the setting ``monitor_leak_age_s``) with owner and target alive.
        """

    @abstractmethod
    def repair_leaks(self, leaks: Iterable[Leak]) -> Leaks:
        """Repair each leak that still is one; returns those that were repaired."""


def name_of(target: Target) -> str:
    """A target's name.

    Raises:
        InvalidPolicy: ``target`` is not an agent or an id.
    """
    name = target.name if isinstance(target, type) and issubclass(target, Agent) else target
    if not isinstance(name, str) or not 0 < len(name) <= 300 or not name.isprintable():
        raise InvalidPolicy("target", target, "an agent's name, an Agent class, or an incarnation's id")
    return name


def tag_json(tag: Any) -> str:
    """A tag as it is stored.

    Raises:
        InvalidPolicy: it is not JSON data of moderate size.
    """
    try:
        return write_tag(tag)
    except ValueError as error:
        raise InvalidPolicy("tag", tag, f"JSON data of at most 1000 characters ({error})") from None


def checked_ref(ref: object) -> int:
    """The ref.

    Raises:
        InvalidPolicy: it is not a ref.
    """
    if type(ref) is not int or not 0 < ref < 2**53:
        raise InvalidPolicy("ref", ref, "what monitor() returned")
    return ref
