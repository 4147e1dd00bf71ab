"""Entries of ``beat_schedule`` whose task nobody has: each of their fires would be an unregistered task in a worker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from celery import Celery

from orchestrator.core.schedule_fault import ScheduleFault
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.values import TaskRecipient
from orchestrator.core.spelling.nearest import nearest
from orchestrator.core.spelling.task_names import nearest_task
from orchestrator.worker.startup_warnings import own_tasks

#: How to name a task that only another app has.
ELSEWHERE: Final = "if another app has it, its name in the setting foreign_tasks"


class EntryRecipients:
    """What is known of the tasks that entries name: those of this app, the messages of agents, and foreign ones.

    Args:
        app: the app whose tasks are known.
        agents: the messages of the agents that are known, by the agents' names.
        foreign: patterns of the names of tasks that other apps have.
    """

    def __init__(self, app: Celery, agents: Mapping[str, Collection[str]], foreign: Iterable[str]) -> None:
        self._tasks = {*app.tasks, *(f"{name}.{message}" for name, messages in agents.items() for message in messages)}
        self._agents = agents
        self._foreign = tuple(foreign)
        self._has_tasks = bool(own_tasks(app))

    def knows(self, definition: ScheduleDefinition) -> bool:
        """Whether an entry's task is known, or said to be another app's."""
        recipient = definition.recipient
        if not isinstance(recipient, TaskRecipient) or recipient.task in self._tasks:
            return True
        return any(fnmatchcase(recipient.task, pattern) for pattern in self._foreign)

    def fault(self, definition: ScheduleDefinition) -> ScheduleFault | None:
        """Why the task of an entry is a mistake: an agent has no such message, or a known task has a similar name."""
        if self.knows(definition) or not isinstance(definition.recipient, TaskRecipient):
            return None
        task = definition.recipient.task
        agent, _, message = task.rpartition(".")
        if agent in self._agents:
            messages = sorted(self._agents[agent])
            near = nearest(message, messages)
            near, allowed = (
                near and f"{agent}.{near}",
                f"a message of agent {agent!r} ({', '.join(messages) or 'none'})",
            )
        else:
            near, allowed = nearest_task(task, self._tasks), "a task of this app, or an agent's message"
            if not near:
                return None
        return ScheduleFault(f"beat_schedule[{definition.id!r}].task", task, f"{allowed}; {ELSEWHERE}", near)

    def unknown(self, definitions: Iterable[ScheduleDefinition]) -> list[str]:
        """The tasks of entries that are not known, without repetitions; none for an app that has no tasks itself."""
        if not self._has_tasks:
            return []
        tasks = (d.recipient.task for d in definitions if isinstance(d.recipient, TaskRecipient) and not self.knows(d))
        return sorted(set(tasks))
