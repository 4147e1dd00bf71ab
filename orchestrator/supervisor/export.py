"""``orchestrator supervise export``: the same processes for systemd, compose or supervisord, as far as these know how.

Nested supervisors, strategies and holds have no counterpart there; each process is restarted by itself.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from math import isinf
from pathlib import Path

from orchestrator.core.supervision_tree_spec import ProcessSpec, Restart, SupervisorSpec, parent_of, walk
from orchestrator.supervisor.definition import Command, Definition, Kind

#: For ever, as these tools want a number: a day.
_FOR_EVER_S = 86400

_MAX_GRACE_S = 5


def _processes(definition: Definition) -> Iterator[tuple[str, ProcessSpec, Command, SupervisorSpec]]:
    specs = dict(walk(definition.root))
    for path, spec in specs.items():
        if isinstance(spec, ProcessSpec):
            above = specs[parent_of(path)]
            assert isinstance(above, SupervisorSpec)  # noqa: S101
            yield path.replace("/", "-"), spec, definition.commands[path], above


def _seconds(shutdown_s: float) -> int:
    return _FOR_EVER_S if isinf(shutdown_s) else max(0, round(shutdown_s))


def supervisord(definition: Definition) -> str:
    """A ``supervisord.conf``: the main process gets SIGTERM, the group SIGKILL."""
    restart = {Restart.PERMANENT: "true", Restart.TRANSIENT: "unexpected", Restart.TEMPORARY: "false"}
    parts = ["[supervisord]\nnodaemon=true\n"]
    for number, (name, spec, command, _) in enumerate(_processes(definition), 1):
        lines = [
            f"[program:{name}]",
            f"command={shlex.join(command.arguments).replace('%', '%%')}",
            f"directory={command.directory.replace('%', '%%')}",
            f"priority={number}",
            f"autorestart={restart[spec.restart]}",
            "exitcodes=0",
            f"stopwaitsecs={_seconds(spec.shutdown_s)}",
            "stopsignal=TERM",
            "stopasgroup=false",
            "killasgroup=true",
            "redirect_stderr=true",
        ]
        if command.environment:
            pairs = ",".join(f"{key}={json.dumps(value)}" for key, value in command.environment.items())
            lines.append(f"environment={pairs.replace('%', '%%')}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def systemd(definition: Definition) -> str:
    """A unit for each process, each in the order of the tree, and a target for all."""
    restart = {Restart.PERMANENT: "always", Restart.TRANSIENT: "on-failure", Restart.TEMPORARY: "no"}
    units = []
    before = ""
    for name, spec, command, above in _processes(definition):
        program = shutil.which(command.arguments[0]) or command.arguments[0]
        lines = [
            f"# /etc/systemd/system/orchestrator-{name}.service",
            "[Unit]",
            "PartOf=orchestrator.target",
            *([f"After=orchestrator-{before}.service"] if before else []),
            f"StartLimitIntervalSec={above.period_s:g}",
            f"StartLimitBurst={above.intensity + 1}",
            "",
            "[Service]",
            f"ExecStart={' '.join(map(_unit_word, (program, *command.arguments[1:])))}",
            f"WorkingDirectory={command.directory.replace('%', '%%')}",
            *(f"Environment={_unit_word(f'{key}={value}')}" for key, value in command.environment.items()),
            f"Restart={restart[spec.restart]}",
            f"RestartSec={spec.backoff.first_s:g}",
            f"RestartPreventExitStatus={'2 126 127' if command.kind is not Kind.PROCESS else '126 127'}",
            "# SIGTERM to the main process, SIGKILL to the group.",
            "KillMode=mixed",
            f"TimeoutStopSec={'infinity' if isinf(spec.shutdown_s) else _seconds(spec.shutdown_s)}",
            "",
            "[Install]",
            "WantedBy=orchestrator.target",
        ]
        units.append("\n".join(lines))
        before = name
    target = "# /etc/systemd/system/orchestrator.target\n[Unit]\nDescription=A Celery deployment\n"
    return "\n\n".join([*units, target + "\n[Install]\nWantedBy=multi-user.target"]) + "\n"


def _unit_word(word: str) -> str:
    """A word as systemd reads it: quoted, without its specifiers and variables."""
    return json.dumps(word.replace("%", "%%").replace("$", "$$"), ensure_ascii=False)


def compose(definition: Definition) -> str:
    """A ``compose.yaml``, for an image that has the app."""
    restart = {Restart.PERMANENT: "unless-stopped", Restart.TRANSIENT: "on-failure", Restart.TEMPORARY: '"no"'}
    lines = ["services:"]
    before = ""
    for name, spec, command, _ in _processes(definition):
        program = Path(command.arguments[0]).name if command.kind is not Kind.PROCESS else command.arguments[0]
        lines += [
            f"  {name}:",
            "    image: ${IMAGE:?the image with the app}",
            f"    entrypoint: {_yaml([program, *command.arguments[1:]])}",
            "    init: true",
            f"    restart: {restart[spec.restart]}",
            f"    stop_grace_period: {_seconds(spec.shutdown_s) + _MAX_GRACE_S}s",
        ]
        if command.environment:
            lines.append(f"    environment: {_yaml(dict(command.environment))}")
        if before:
            lines.append(f"    depends_on: {_yaml([before])}")
        before = name
    return "\n".join(lines) + "\n"


def _yaml(value: object) -> str:
    """YAML of a value: JSON is a part of it. A dollar sign would begin a variable."""
    return json.dumps(value).replace("$", "$$")


FORMATS: Mapping[str, Callable[[Definition], str]] = {
    "systemd": systemd,
    "compose": compose,
    "supervisord": supervisord,
}
