"""``orchestrator supervise export``: the same processes for systemd, compose or supervisord, as far as these know how.

Each format is a table of files: name and content. Nested supervisors, strategies and holds have no counterpart there;
each process is restarted by itself.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from math import isinf
from pathlib import Path

from orchestrator.core.supervision_tree.spec import (
    ProcessSpec,
    Restart,
    SupervisorSpec,
    allowed_ends,
    parent_of,
    walk,
)
from orchestrator.supervisor.export.compose import compose
from orchestrator.supervisor.reading.definition import Command, Definition, Kind, ProbeKind

#: For ever, as these tools want a number: a day.
_FOR_EVER_S = 86400


def _processes(definition: Definition) -> Iterator[tuple[str, ProcessSpec, Command, SupervisorSpec]]:
    specs = dict(walk(definition.root))
    for path, spec in specs.items():
        if isinstance(spec, ProcessSpec):
            above = specs[parent_of(path)]
            assert isinstance(above, SupervisorSpec)  # noqa: S101
            yield path.replace("/", "-"), spec, definition.commands[path], above


def _seconds(shutdown_s: float) -> int:
    return _FOR_EVER_S if isinf(shutdown_s) else max(0, round(shutdown_s))


def _arguments(command: Command) -> tuple[str, ...]:
    """Its arguments. Beat's file is in no state directory, which is not there if no supervisor has run."""
    schedule = command.default_schedule
    beside = str(Path(command.directory) / Path(schedule).name)
    return tuple(beside if schedule and one == schedule else one for one in command.arguments)


def _program(command: Command) -> str:
    """The absolute path of its program; the name if it is not here."""
    program = command.arguments[0]
    if "/" in program:
        return str(Path(command.directory) / program)
    return shutil.which(program, path=command.environment.get("PATH")) or program


def supervisord(definition: Definition) -> str:
    """A ``supervisord.conf``: the main process gets SIGTERM, the group SIGKILL."""
    restart = {Restart.PERMANENT: "true", Restart.TRANSIENT: "unexpected", Restart.TEMPORARY: "false"}
    parts = [f"; cd {definition.directory} && supervisord -n -c supervisord.conf\n[supervisord]\nnodaemon=true\n"]
    for number, (name, spec, command, _) in enumerate(_processes(definition), 1):
        lines = [
            f"[program:{name}]",
            f"command={_ini_words(command)}",
            f"directory={command.directory.replace('%', '%%')}",
            f"priority={number}",
            f"autorestart={restart[spec.restart]}",
            "exitcodes=0",
            f"stopwaitsecs={_seconds(spec.shutdown_s)}",
            "stopsignal=TERM",
            "stopasgroup=false",
            "killasgroup=true",
            # What they write goes where supervisord itself writes.
            "redirect_stderr=true",
            "stdout_logfile=/dev/fd/1",
            "stdout_logfile_maxbytes=0",
        ]
        if command.environment and _is_plain(command.environment):
            pairs = ",".join(f'{key}="{value}"' for key, value in command.environment.items())
            lines.append(f"environment={pairs.replace('%', '%%')}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


#: Values that supervisord reads as they are, within double quotes.
_PLAIN = re.compile(r"[^\"'\\\n;#]*")


def _is_plain(environment: Mapping[str, str]) -> bool:
    return all(_PLAIN.fullmatch(value) for value in environment.values())


def _ini_words(command: Command) -> str:
    """A command as supervisord reads it. A blank and `;` or `#` would begin a comment, even within quotes."""
    pairs = [f"{key}={value}" for key, value in command.environment.items()]
    words = ["env", *pairs] if pairs and not _is_plain(command.environment) else []
    line = shlex.join([*words, _program(command), *_arguments(command)[1:]]).replace("%", "%%")
    return re.sub(r"(\s)([;#])", r"\1''\2", line)


def systemd(definition: Definition) -> dict[str, str]:
    """A unit for each process, each in the order of the tree, and a target for all."""
    restart = {Restart.PERMANENT: "always", Restart.TRANSIENT: "on-failure", Restart.TEMPORARY: "no"}
    units = {}
    before = ""
    # As root, a worker warns of itself.
    user = [] if os.getuid() == 0 else [f"User={getpass.getuser()}"]
    for name, spec, command, above in _processes(definition):
        words = (_program(command), *_arguments(command)[1:])
        lines = [
            "[Unit]",
            f"Description={name} of {definition.directory}".replace("%", "%%"),
            "PartOf=orchestrator.target",
            *([f"After=orchestrator-{before}.service"] if before else []),
            f"StartLimitIntervalSec={above.period_s:g}",
            f"StartLimitBurst={allowed_ends(above) + 1}",
            "",
            "[Service]",
            f"Type={'notify' if command.probe.kind is ProbeKind.NOTIFY else 'exec'}",
            *user,
            f"ExecStart={' '.join(_unit_word(word.replace('$', '$$')) for word in words)}",
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
        units[f"orchestrator-{name}.service"] = "\n".join(lines) + "\n"
        before = name
    target = "[Unit]\nDescription=The processes of {}\n\n[Install]\nWantedBy=multi-user.target\n"
    return {**units, "orchestrator.target": target.format(str(definition.directory).replace("%", "%%"))}


def _unit_word(word: str) -> str:
    """A word as systemd reads it: quoted, without its specifiers."""
    return json.dumps(word.replace("%", "%%"), ensure_ascii=False)


#: The files of each format.
FORMATS: Mapping[str, Callable[[Definition], Mapping[str, str]]] = {
    "systemd": systemd,
    "compose": lambda definition: {"compose.yaml": compose(definition)},
    "supervisord": lambda definition: {"supervisord.conf": supervisord(definition)},
}
