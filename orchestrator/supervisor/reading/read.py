"""Reads a definition: `orchestrator.toml`, a `Procfile`, or the default tree of an app. Finds all faults at once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.supervisor.reading import procfile
from orchestrator.supervisor.reading.building import Builder
from orchestrator.supervisor.reading.definition import Definition, InvalidDefinition

#: Files that are looked for in the working directory, in this order.
DEFAULT_FILES = ("orchestrator.toml", "Procfile")

#: The mailbox of the monitor manager.
MANAGER_QUEUE = "monitor-manager"


def read(path: Path, state: Path, app: str | None = None) -> Definition:
    """Read a file. ``app`` is the app of the children that name none.

    Raises:
        InvalidDefinition: with all that is wrong.
    """
    try:
        # An editor may have put a byte order mark in front.
        text = path.read_text(encoding="utf-8-sig")
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
    refuse = partial(builder.refuse, "")
    return builder.build(procfile.children(text, refuse, builder.warn_of_unset))


def _supervisor_of(content: Mapping[str, Any], builder: Builder) -> Any:
    for key in content:
        if key != "supervisor":
            builder.refuse("", key, content[key], "unknown; allowed: supervisor")
    if "supervisor" not in content:
        builder.refuse("", "supervisor", "", "missing: the table [supervisor] with its children")
    return content.get("supervisor", {})


def default_tree(app: str, state: Path, directory: Path, *, may_listen: bool = True) -> Definition:
    """A monitor manager, beat, and as many solo workers as there are cores; and a Redis, if the app's is not elsewhere.

    ``may_listen``: a server that listens where the Redis would is used instead.
    """
    from orchestrator.supervisor.reading.asked_app import REDIS_PORT

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    manager = {"id": "manager", "kind": "worker", "queues": [MANAGER_QUEUE], "pool": "solo"}
    worker = {"id": "worker", "kind": "worker", "pool": "solo", "replicas": cores}
    redis = {"id": "redis", "kind": "redis", "port": REDIS_PORT}
    children: list[dict[str, Any]] = [manager, {"id": "beat", "kind": "beat"}, worker]
    builder = Builder(f"the default tree of {app}", directory, state, app)
    if needs_redis(app, directory, may_listen=may_listen):
        children.insert(0, redis)
        if may_listen:
            builder.warn(
                f"nothing listens at 127.0.0.1:{REDIS_PORT}: a Redis is started there, its data in {state / 'redis'}"
            )
    return builder.build({"children": children})


def needs_redis(app: str, directory: Path, *, may_listen: bool = True) -> bool:
    """Whether nothing listens where the broker is looked for if none is named, and nobody names another one."""
    import socket

    # What only this needs (`subprocess`) would stay in the memory of the supervisor.
    from orchestrator.supervisor.reading.asked_app import REDIS_PORT, NotImported, broker_of, is_redis_of_this_host

    if os.environ.get("ORCHESTRATOR_BROKER_URL") or os.environ.get("ORCHESTRATOR_CONFIG"):
        return False
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if may_listen and probe.connect_ex(("127.0.0.1", REDIS_PORT)) == 0:
            return False
    try:
        broker = broker_of(app, directory)
    except NotImported:
        # Its workers will say so.
        return False
    return not broker or is_redis_of_this_host(broker, REDIS_PORT)
