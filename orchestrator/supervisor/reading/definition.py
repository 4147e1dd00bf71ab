"""The definition of a deployment: the tree's specs, and the command of each process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.core.supervision_tree.spec import ProcessSpec, SupervisorSpec


class Kind(StrEnum):
    """The kind of a child."""

    SUPERVISOR = "supervisor"
    WORKER = "worker"
    BEAT = "beat"
    FLOWER = "flower"
    REDIS = "redis"
    PROCESS = "process"


class ProbeKind(StrEnum):
    """The ways in which a process shows that it is ready."""

    #: It writes a health file in which it has a lease (workers).
    HEALTH = "health"
    #: It answers a PING on its port (Redis).
    PING = "ping"
    HTTP = "http"
    #: It writes READY=1 to ``$NOTIFY_SOCKET`` (sd_notify).
    NOTIFY = "notify"
    #: A command ends with exit code 0.
    EXEC = "exec"
    #: It was started.
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Probe:
    """The way in which a process shows that it is ready, and the place."""

    kind: ProbeKind = ProbeKind.NONE
    host: str = "127.0.0.1"
    port: int = 0
    path: str = "/"
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """The command of a process, and its surroundings."""

    kind: Kind
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = "."
    probe: Probe = field(default_factory=Probe)
    #: Of a worker, beat and Flower; and of a process that is a Celery worker.
    app: str = ""
    queues: tuple[str, ...] = ()
    #: A worker's node name, with ``%h``.
    node: str = ""
    port: int = 0
    #: The file of Celery's own scheduler, unless the definition names one.
    default_schedule: str = ""
    #: Whether it may still have children when it has ended with exit code 0; else they are killed, and it has failed.
    may_leave_children: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """A child as it was written, of which there may be several copies."""

    #: The path without a number.
    path: str
    kind: Kind
    options: Mapping[str, Any]
    replicas: int | None

    def paths(self, count: int | None = None) -> list[str]:
        """The paths of its copies; the first one's has a number only if a number was asked for."""
        if self.replicas is None:
            return [self.path, *(f"{self.path}.{number}" for number in range(2, (count or 1) + 1))]
        return [f"{self.path}.{number}" for number in range(1, (self.replicas if count is None else count) + 1)]


@dataclass(frozen=True, slots=True)
class Definition:
    """A whole deployment."""

    root: SupervisorSpec
    commands: Mapping[str, Command]
    templates: Mapping[str, Template]
    #: Where it was read from, and the directory that paths in it are relative to.
    source: str
    directory: Path
    #: Variables of all processes, also of those that the supervisor starts for itself.
    environment: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def apps(self) -> list[str]:
        """The Celery apps that its workers serve."""
        with_workers = (Kind.WORKER, Kind.PROCESS)
        return sorted({one.app for one in self.commands.values() if one.app and one.kind in with_workers})


class InvalidDefinition(Exception):
    """A definition with all that is wrong in it. Nothing was started."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(f"{source}: " + "; ".join(problems))


@dataclass(frozen=True, slots=True)
class Child:
    """A process with its spec and its command."""

    path: str
    spec: ProcessSpec
    command: Command
