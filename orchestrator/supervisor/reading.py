"""Reads a definition: `orchestrator.toml`, a `Procfile`, or the default tree of an app. Finds all faults at once."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.supervisor.building import Builder
from orchestrator.supervisor.definition import Definition, InvalidDefinition
from orchestrator.supervisor.options import substituted

#: Files that are looked for in the working directory, in this order.
DEFAULT_FILES = ("orchestrator.toml", "Procfile")

#: The mailbox of the monitor manager.
MANAGER_QUEUE = "monitor-manager"

#: Where the embedded Redis of a default tree listens.
_REDIS_PORT = 6379

#: Words that only a shell understands.
_SHELL = re.compile(r"[;&|<>`\n]|\$\(")
_PROCFILE_LINE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*):\s*(.+)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")


def read(path: Path, state: Path, app: str | None = None) -> Definition:
    """Read a file. ``app`` is the app of the children that name none.

    Raises:
        InvalidDefinition: with all that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDefinition(str(path), [str(error)]) from error
    builder = Builder(str(path), path.absolute().parent, state, app)
    if path.suffix == ".toml":
        try:
            content = tomllib.loads(text)
            return builder.build(_supervisor_of(content, builder))
        except RecursionError as error:
            raise InvalidDefinition(str(path), ["nested too deep"]) from error
        except ValueError as error:
            # A syntax error, or a number with thousands of digits.
            raise InvalidDefinition(str(path), [str(error)]) from error
    return builder.build(_of_procfile(text, builder))


def _supervisor_of(content: Mapping[str, Any], builder: Builder) -> Any:
    for key in content:
        if key != "supervisor":
            builder.refuse("", key, content[key], "unknown; allowed: supervisor")
    if "supervisor" not in content:
        builder.refuse("", "supervisor", "", "missing: the table [supervisor] with its children")
    return content.get("supervisor", {})


def _of_procfile(text: str, builder: Builder) -> dict[str, Any]:
    """A Procfile's processes. Without a shell: variables are replaced, ``exec`` and assignments understood."""
    children = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = _PROCFILE_LINE.fullmatch(line)
        if found is None:
            builder.refuse("", f"line {number}", line, "allowed: name: command")
            continue
        name, command = found.groups()
        if _SHELL.search(command):
            builder.refuse(
                "", name, command, "allowed: one command without a shell's operators; or use orchestrator.toml"
            )
            continue
        try:
            words = [substituted(word) for word in shlex.split(command)]
        except ValueError as error:
            builder.refuse("", name, command, str(error))
            continue
        environment = {}
        while words and (words[0] == "exec" or _ASSIGNMENT.fullmatch(words[0])):
            first = words.pop(0)
            if first != "exec":
                environment[first.partition("=")[0]] = first.partition("=")[2]
        children.append({"id": name, "kind": "process", "command": words, "environment": environment, **_known(words)})
    return {"children": children}


def _known(words: list[str]) -> dict[str, Any]:
    """What a command that is a Celery worker needs beyond that of another one."""
    is_worker = len(words) > 1 and Path(words[0]).name == "celery" and "worker" in words
    return {"shutdown_s": 60.0, "ready": "health"} if is_worker else {}


def default_tree(app: str, state: Path, directory: Path) -> Definition:
    """A monitor manager, beat, and one worker with as many processes as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    manager = {"id": "manager", "kind": "worker", "queues": [MANAGER_QUEUE], "pool": "solo"}
    worker = {"id": "worker", "kind": "worker", "pool": "solo", "replicas": cores}
    redis = {"id": "redis", "kind": "redis", "port": _REDIS_PORT}
    children: list[dict[str, Any]] = [manager, {"id": "beat", "kind": "beat"}, worker]
    builder = Builder(f"the default tree of {app}", directory, state, app)
    if needs_redis():
        children.insert(0, redis)
        builder.warn(
            f"nothing listens at 127.0.0.1:{_REDIS_PORT}: a Redis is started there, its data in {state / 'redis'}"
        )
    # Each process may end a few times for reasons of its own.
    return builder.build({"intensity": 3 * (len(children) + cores), "children": children})


def needs_redis() -> bool:
    """Whether no broker is named, and none is where one is looked for then."""
    import socket

    if os.environ.get("ORCHESTRATOR_BROKER_URL") or os.environ.get("ORCHESTRATOR_CONFIG"):
        return False
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", _REDIS_PORT)) != 0
