"""``orchestrator.timeouts``: the timeouts that apply, and their overrides at run time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Protocol

from celery import Celery

from orchestrator.agents.agent import Agent
from orchestrator.agents.directory import Directory
from orchestrator.core.checks.numbers import is_number
from orchestrator.core.deliveries.attempt_limits import CURRENT
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.effective import seconds
from orchestrator.core.policies.run_times import Suggestion, suggest
from orchestrator.core.policies.timeout_classes import allowed_seconds, seconds_of, shown_seconds
from orchestrator.core.policies.timeout_overrides import Override
from orchestrator.core.settings import Settings
from orchestrator.core.spelling.nearest import meant
from orchestrator.sending.address import Address
from orchestrator.timeouts.overrides import Overrides
from orchestrator.timeouts.run_times import RunTimesReader
from orchestrator.worker.hosting import why_task_not_supervised
from orchestrator.worker.startup_warnings import own_tasks

#: Longest time of an override, in seconds. What holds for longer belongs in the settings.
_LONGEST_S = 30 * 24 * 3600.0


class Mode(Protocol):
    """The backend of overrides and run times: Redis, or memory."""

    @property
    def overrides(self) -> Overrides:
        """The overridden timeouts."""

    @property
    def run_times(self) -> RunTimesReader:
        """The run times of attempts."""


class Timeouts:
    """The timeouts of one app's messages.

    An override replaces the timeout of a message, wherever that comes from, for attempts that begin while it is in
    force; deadlines hold all the same. In Redis it ends by Redis' clock; workers know of it with their next heartbeat.
    """

    def __init__(
        self,
        app: Celery,
        directory: Directory,
        settings: Settings,
        mode: Callable[[], Mode],
        pools: Callable[[str], Collection[str]],
    ) -> None:
        self._app = app
        self._directory = directory
        self._settings = settings
        self._mode = mode
        self._pools = pools

    def remaining_s(self) -> float | None:
        """Seconds until the attempt that runs here has to end; ``None`` if it need not, or none runs.

        For plain tasks; handlers of agents have :meth:`Context.remaining_s`.
        """
        limits = CURRENT.get()
        return None if limits is None else limits.remaining_s()

    def override(self, name: str, timeout_s: float | str, *, for_s: float) -> Override:
        """Override the timeout of an agent's message (``billing.Charge``), an agent, a task, or a pattern of these.

        Args:
            name: the most specific name counts, as in the setting ``timeouts``.
            timeout_s: seconds, or a class of ``timeout_classes``; multiplied by ``timeout_factor``.
            for_s: after how many seconds the override ends; at most 30 days.

        Raises:
            InvalidPolicy: the name is unknown; or a value is out of range, beyond a deadline or a hard time limit.
            BrokerUnavailable: Redis is away.
        """
        chosen_s = self._checked(timeout_s)
        if not is_number(for_s, 0, _LONGEST_S) or not for_s:
            raise InvalidPolicy("for_s", for_s, "seconds above 0, up to 30 days; for longer, the setting timeouts")
        for address in self._named(name):
            self._refuse_beyond(address, chosen_s)
        return self._mode().overrides.set(name, float(chosen_s), float(for_s))

    def overrides(self) -> list[Override]:
        """The overrides in force, by name.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        return self._mode().overrides.list()

    def clear(self, name: str | None = None) -> int:
        """End the override of a name, or all; returns how many there were.

        Raises:
            InvalidPolicy: that name has no override, or is none.
            BrokerUnavailable: Redis is away.
        """
        if name is not None and (not isinstance(name, str) or not name):
            raise InvalidPolicy("name", name, "a name whose timeout is overridden, or None for all")
        overrides = self._mode().overrides
        cleared = overrides.clear(() if name is None else (name,))
        if name is not None and not cleared:
            known = [one.name for one in overrides.list()]
            listed = ", ".join(known) or "none is overridden"
            raise InvalidPolicy("name", name, f"a name whose timeout is overridden ({listed}){meant(name, known)}")
        return cleared

    def addresses(self) -> list[Address]:
        """All messages of agents, and plain tasks, each with its policy.

        Raises:
            BrokerUnavailable: Redis is away.
        """
        agents = self._directory.known_addresses()
        specs = self._directory.declared.values()
        theirs = {address.task for address in agents} | {spec.down_task for spec in specs}
        plain = [
            Address("", name, name, "", self._directory.timeouts.merged(name))
            for name, task in own_tasks(self._app)
            if name not in theirs and not why_task_not_supervised(task)
        ]
        return [*agents, *self._downs(), *plain]

    def suggest(self, name: str | None = None, *, margin: float = 2.0) -> list[Suggestion]:
        """The timeouts that the run times of the last 7 days suggest: ``margin`` times the 99th percentile.

        Of all messages and tasks that have run, or of those that ``name`` stands for. Workers add the run times of
        supervised attempts to Redis every 5 s. They are measured where they run, so ``timeout_factor`` is no part of
        them: where it is not 1, what is suggested is divided by it.

        Raises:
            InvalidPolicy: the name is unknown, or the margin below 1 or above 100.
            BrokerUnavailable: Redis is away.
        """
        if not is_number(margin, 1, 100):
            raise InvalidPolicy("margin", margin, "a number from 1 to 100")
        addresses = self.addresses() if name is None else self._named(name)
        counts = self._mode().run_times.counts([address.task for address in addresses])
        factor = self._settings.timeout_factor
        return [
            suggest(address.task, counts[address.task], address.policy.timeout_s, margin, factor)
            for address in addresses
            if name is not None or counts[address.task]
        ]

    def missing(self) -> list[Address]:
        """The handlers declared in this process whose attempts nothing ends: no timeout, and no limit of Celery.

        A deadline is not enough: replayed dead letters and steps of workflows have none. Nor is an override: it ends.
        """
        conf = self._app.conf
        for_all = conf.task_soft_time_limit or conf.task_time_limit
        specs = self._directory.declared
        own_downs = [one for one in self._downs() if specs[one.agent].cls.on_down is not Agent.on_down]
        found = []
        for address in (*self._directory.addresses(), *own_downs):
            task = self._app.tasks.get(address.task)
            limit = getattr(task, "soft_time_limit", None) or getattr(task, "time_limit", None) or for_all
            if address.policy.timeout_s is None and not limit:
                found.append(address)
        return found

    def _downs(self) -> list[Address]:
        timeouts = self._directory.timeouts
        return [
            Address(
                spec.name,
                "on_down",
                spec.down_task,
                spec.queue,
                timeouts.merged(spec.down_task, spec.name, ("agent", spec.policy)),
            )
            for spec in self._directory.declared.values()
        ]

    def _checked(self, timeout_s: float | str) -> float:
        classes = self._settings.timeout_classes
        chosen_s = seconds_of(timeout_s, classes)
        if chosen_s is None:
            raise InvalidPolicy("timeout_s", timeout_s, allowed_seconds(timeout_s, classes))
        seconds("timeout_s", chosen_s, above=True)
        return chosen_s

    def _named(self, name: str) -> list[Address]:
        addresses = self.addresses()
        exact = [one for one in addresses if isinstance(name, str) and name and name in (one.task, one.agent)]
        found = exact or [
            one
            for one in addresses
            if isinstance(name, str) and any(fnmatchcase(other, name) for other in (one.task, one.agent) if other)
        ]
        if not found:
            known = {*(one.task for one in addresses), *(one.agent for one in addresses if one.agent)}
            near = meant(name, known) if isinstance(name, str) else ""
            raise InvalidPolicy("name", name, f"an agent, a message or a task that is known, or a pattern{near}")
        return found

    def _refuse_beyond(self, address: Address, timeout_s: float) -> None:
        """Refuse an override that the deadline or the hard limit of a message ends first."""
        policy = address.policy
        if policy.deadline_s is not None and timeout_s > policy.deadline_s:
            by = policy.sources.get("deadline_s", "default")
            allowed = f"at most deadline_s={policy.deadline_s:g} of {address.task} (said by {by}), which ends it first"
            raise InvalidPolicy("timeout_s", shown_seconds(timeout_s), allowed)
        task = self._app.tasks.get(address.task)
        limit_s = getattr(task, "time_limit", None) or self._app.conf.task_time_limit
        if limit_s and timeout_s * self._settings.timeout_factor >= limit_s and self._kills(address):
            allowed = f"below time_limit={limit_s:g} of {address.task}"
            raise InvalidPolicy("timeout_s", shown_seconds(timeout_s), allowed)

    def _kills(self, address: Address) -> bool:
        """Whether a pool may serve a message that kills at hard limits: a prefork pool, or no pool that is known."""
        queue = getattr(address.queue, "name", address.queue) or self._app.conf.task_default_queue
        pools = self._pools(str(queue))
        return not self._app.conf.task_always_eager and (not pools or "prefork" in pools)
