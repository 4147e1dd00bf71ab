"""Kinds of children: the command of each, how it is known to be ready, and how long it has to stop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.core.supervision_tree.spec import Backoff, ProcessSpec, Restart
from orchestrator.supervisor.reading.celery_command import worker_in
from orchestrator.supervisor.reading.definition import Child, Command, Kind, Probe, ProbeKind

#: SIGQUIT, which makes a Celery worker cancel what runs, is sent this long before SIGKILL.
_QUIT_BEFORE_S = 5.0

#: Seconds from SIGTERM to SIGKILL.
_SHUTDOWN_S = {Kind.WORKER: 60.0, Kind.REDIS: 30.0}
_OTHER_SHUTDOWN_S = 10.0

_READY = {Kind.WORKER: ProbeKind.HEALTH, Kind.REDIS: ProbeKind.PING, Kind.FLOWER: ProbeKind.HTTP}

_FLOWER_PORT = 5555

#: Of `celery`: without the banner of a worker or beat.
QUIET = "--quiet"

#: Seconds for which Redis serves after SIGTERM while clients are connected.
_LINGER_S = 4


def child(path: str, kind: Kind, options: Mapping[str, Any], directory: Path, state: Path) -> Child:
    """A process as its checked options describe it."""
    kept = {name: options[name] for name in ("significant", "ready_s", "stable_s") if name in options}
    spec = ProcessSpec(
        path.rpartition("/")[2],
        restart=options.get("restart", Restart.PERMANENT),
        shutdown_s=options.get("shutdown_s", _SHUTDOWN_S.get(kind, _OTHER_SHUTDOWN_S)),
        quit_before_s=_QUIT_BEFORE_S if kind is Kind.WORKER else 0.0,
        backoff=options.get("backoff", Backoff()),
        **kept,
    )
    worker = worker_in(options.get("command", ()))
    command = Command(
        kind,
        _ARGUMENTS[kind](spec.id, options, state),
        environment=options.get("environment", {}),
        directory=str(directory / options.get("directory", ".")),
        probe=_probe(kind, options),
        app=options.get("app", "") or (worker.app if worker else ""),
        queues=options.get("queues", ()),
        node=_node(spec.id, options) if kind is Kind.WORKER else "",
        port=_port(kind, options),
        default_schedule=_schedule(spec.id, state) if kind is Kind.BEAT and "schedule" not in options else "",
        may_leave_children=kind is not Kind.PROCESS,
    )
    return Child(path, spec, command)


def _node(child_id: str, options: Mapping[str, Any]) -> str:
    node = str(options.get("node", f"{child_id}@%h"))
    return node if "@" in node else f"{node}@%h"


def _port(kind: Kind, options: Mapping[str, Any]) -> int:
    return int(options.get("port", _FLOWER_PORT if kind is Kind.FLOWER else 0))


def _celery(options: Mapping[str, Any], *arguments: str) -> tuple[str, ...]:
    level = ("-l", options["log_level"]) if "log_level" in options else ()
    quiet = () if options.get("banner", arguments[0] == "flower") else (QUIET,)
    command = (sys.executable, "-m", "celery", "-A", options["app"], *quiet, *arguments, *level)
    return (*command, *options.get("arguments", ()))


def _worker(child_id: str, options: Mapping[str, Any], _state: Path) -> tuple[str, ...]:
    arguments = ["worker", "-n", _node(child_id, options)]
    if "queues" in options:
        arguments += ["-Q", ",".join(options["queues"])]
    if "pool" in options:
        arguments += ["--pool", options["pool"]]
    if "concurrency" in options:
        arguments += ["-c", str(options["concurrency"])]
    return _celery({"log_level": "INFO", **options}, *arguments)


def _beat(child_id: str, options: Mapping[str, Any], state: Path) -> tuple[str, ...]:
    # Without a pid file: the supervisor knows that there is one beat, and a file outlives a SIGKILL.
    schedule = options.get("schedule", _schedule(child_id, state))
    return _celery({"log_level": "INFO", **options}, "beat", "-s", schedule, "--pidfile=")


def _schedule(child_id: str, state: Path) -> str:
    return str(state / f"{child_id}-schedule")


def _flower(_child_id: str, options: Mapping[str, Any], _state: Path) -> tuple[str, ...]:
    return _celery(options, "flower", "--address=127.0.0.1", f"--port={_port(Kind.FLOWER, options)}")


def _redis(child_id: str, options: Mapping[str, Any], state: Path) -> tuple[str, ...]:
    where = options.get("dir", str(state / child_id))
    log = ("--appendonly",) if options.get("appendonly", True) else ()
    port, linger = str(options["port"]), str(_LINGER_S)
    embedded = (sys.executable, "-m", "orchestrator.embedded", "--no-password")
    return (*embedded, "--port", port, "--linger-s", linger, "--dir", where, *log)


def _process(_child_id: str, options: Mapping[str, Any], _state: Path) -> tuple[str, ...]:
    return tuple(options["command"])


_ARGUMENTS = {
    Kind.WORKER: _worker,
    Kind.BEAT: _beat,
    Kind.FLOWER: _flower,
    Kind.REDIS: _redis,
    Kind.PROCESS: _process,
}


def _probe(kind: Kind, options: Mapping[str, Any]) -> Probe:
    default = ProbeKind.HTTP if "ready_url" in options else ProbeKind.EXEC if "ready_command" in options else None
    probe = options.get("ready", default or _READY.get(kind, ProbeKind.NONE))
    url = urlsplit(options.get("ready_url", f"http://127.0.0.1:{_port(kind, options) or 80}/healthcheck"))
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    port = (url.port or 80) if probe is ProbeKind.HTTP else _port(kind, options)
    return Probe(probe, url.hostname or "127.0.0.1", port, path, tuple(options.get("ready_command", ())))
