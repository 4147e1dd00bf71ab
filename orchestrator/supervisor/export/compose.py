"""``orchestrator supervise export compose``: a service for each process, in a network of their own.

What listens at loopback here listens at all addresses of its container there, and is published at the host's loopback
alone. Redis is an image of its own, which only the other services reach, by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orchestrator.core.supervision_tree.spec import INFINITY, ProcessSpec, Restart, walk
from orchestrator.supervisor.reading.asked_app import REDIS_PORT, is_redis_of_this_host
from orchestrator.supervisor.reading.definition import Command, Definition, Kind

_RESTART = {Restart.PERMANENT: "unless-stopped", Restart.TRANSIENT: "on-failure", Restart.TEMPORARY: "no"}

#: For ever, as compose wants a number: a day.
_FOR_EVER_S = 86400

#: Docker kills later than the process itself gives up.
_MORE_GRACE_S = 5

_DOCKERFILES = ("Dockerfile", "docker/Dockerfile")
_NO_DOCKERFILE = "${IMAGE:?allowed: an image that holds the app; or export again with a Dockerfile in the directory}"

_REDIS_IMAGE = "redis:7"

#: Variables that name the broker. Celery prefers the second to what an app says in code.
_BROKER_VARIABLES = ("ORCHESTRATOR_BROKER_URL", "CELERY_BROKER_URL")

_EMBEDDED = "orchestrator.embedded"


def compose(definition: Definition) -> str:
    """A ``compose.yaml`` for the directory of the definition."""
    found = _services(definition)
    ports = {name: _redis_port(command) for name, (_, command) in found.items()}
    redises = {name: port for name, port in ports.items() if port}
    lines = [
        f"# For {definition.directory}: docker compose up --build",
        "# Ports are published at 127.0.0.1 of the host alone; Redis is not published.",
        "services:",
    ]
    last: list[str] = []
    group = ""
    before: list[str] = []
    for name, (spec, command) in found.items():
        if not spec.group or spec.group != group:
            before, last, group = last, [], spec.group
        last.append(name)
        service = _redis(name, command) if name in redises else _service(definition, command, redises)
        service |= {"restart": _RESTART[spec.restart], "stop_grace_period": f"{_grace_s(spec)}s"}
        if name not in redises:
            conditions = {one: {"condition": "service_started"} for one in before}
            conditions |= {one: {"condition": "service_healthy"} for one in redises}
            service |= {"depends_on": conditions} if conditions else {}
        lines.append(f"  {name}:")
        lines += [f"    {key}: {_yaml(value)}" for key, value in service.items()]
    if redises:
        lines += [f"volumes: {_yaml({name: {} for name in redises})}"]
    return "\n".join(lines) + "\n"


def unreachable_brokers(definition: Definition, brokers: Mapping[str, str]) -> Iterator[str]:
    """Warnings of apps whose broker is at this host's loopback, where no container reaches it."""
    ports = [_redis_port(command) for command in definition.commands.values()]
    for app, url in brokers.items():
        named = urlsplit(url.partition(";")[0])
        if not any(ports) and named.hostname in ("127.0.0.1", "localhost", "::1", None):
            shown = f"{named.hostname}:{named.port}" if named.port else named.hostname or "not named"
            yield (
                f"app {app}: its broker is {shown}, which no container reaches; add a child of kind redis, "
                "or name another broker in CELERY_BROKER_URL in the environment of [supervisor]"
            )


def _services(definition: Definition) -> dict[str, tuple[ProcessSpec, Command]]:
    specs = {path: spec for path, spec in walk(definition.root) if isinstance(spec, ProcessSpec)}
    return {path.replace("/", "-"): (spec, definition.commands[path]) for path, spec in specs.items()}


def _service(definition: Definition, command: Command, redises: Mapping[str, int]) -> dict[str, Any]:
    service: dict[str, Any] = {**_image(definition), "init": True}
    # The image is built for a worker, and may have arguments of its own.
    service["entrypoint"] = _arguments(definition, command)
    environment = _environment(command, redises)
    if environment:
        service["environment"] = environment
    if command.port:
        service["ports"] = [f"127.0.0.1:{command.port}:{command.port}"]
    check = _check(command)
    if check:
        service["healthcheck"] = check
    return service


def _image(definition: Definition) -> dict[str, Any]:
    dockerfile = next((one for one in _DOCKERFILES if (definition.directory / one).is_file()), None)
    if dockerfile is None:
        return {"image": _Text(_NO_DOCKERFILE)}
    name = "".join(one if one.isalnum() else "-" for one in definition.directory.name.lower()).strip("-") or "app"
    return {"image": _Text(f"${{IMAGE:-{name}}}"), "build": {"context": ".", "dockerfile": dockerfile}}


def _arguments(definition: Definition, command: Command) -> list[str]:
    arguments = list(command.arguments)
    if command.kind is not Kind.PROCESS:
        # The interpreter here is one of a virtual environment, which the image does not have.
        arguments[0] = "python"
    if command.kind is Kind.BEAT and command.default_schedule in arguments:
        arguments[arguments.index(command.default_schedule)] = "/tmp/celerybeat-schedule"  # noqa: S108
    if command.kind is Kind.FLOWER:
        arguments = [one.replace("--address=127.0.0.1", "--address=0.0.0.0") for one in arguments]
    inside = Path(command.directory)
    if inside == definition.directory or not inside.is_relative_to(definition.directory):
        return arguments
    # Below the image's own working directory, whatever that is.
    return ["sh", "-c", f'cd "{inside.relative_to(definition.directory)}" && exec "$0" "$@"', *arguments]


def _environment(command: Command, redises: Mapping[str, int]) -> dict[str, str]:
    by_port = {port: name for name, port in redises.items()}
    given = {name: _of_service(value, by_port) for name, value in command.environment.items()}
    if not redises or any(name in given for name in _BROKER_VARIABLES):
        return given
    name, port = next(iter(redises.items()))
    return {**given, **dict.fromkeys(_BROKER_VARIABLES, f"redis://{name}:{port}/0")}


def _of_service(value: str, by_port: Mapping[int, str]) -> str:
    """A variable's value; the URL of a Redis of the tree names its service in place of this host."""
    port = next((one for one in by_port if is_redis_of_this_host(value, one)), None)
    if port is None:
        return value
    return urlunsplit(urlsplit(value)._replace(netloc=f"{by_port[port]}:{port}"))


def _check(command: Command) -> dict[str, Any]:
    """How Docker finds out whether a service is well; an image's own check is that of a worker."""
    times = {"interval": "15s", "timeout": "5s", "start_period": "30s", "retries": 3}
    if command.kind is Kind.WORKER:
        return {"test": ["CMD", "orchestrator", "health"], **times}
    if command.kind is Kind.FLOWER:
        asked = f"from urllib.request import urlopen; urlopen('http://127.0.0.1:{command.port}/healthcheck', timeout=4)"
        return {"test": ["CMD", "python", "-c", asked], **times}
    return {"disable": True} if command.kind is Kind.BEAT else {}


def _redis_port(command: Command) -> int:
    """The port of an embedded Redis; 0 of anything else."""
    if command.kind is Kind.REDIS:
        return command.port
    words = command.arguments
    if command.kind is not Kind.PROCESS or _EMBEDDED not in words:
        return 0
    return next((int(port) for name, port in pairwise(words) if name == "--port"), REDIS_PORT)


def _redis(name: str, command: Command) -> dict[str, Any]:
    port, log = str(_redis_port(command)), "yes" if "--appendonly" in command.arguments else "no"
    # Never evict: an evicted key is lost mail.
    options = ["--dir", "/data", "--appendonly", log, "--save", "", "--maxmemory-policy", "noeviction"]
    return {
        "image": _REDIS_IMAGE,
        # Without a password: only the services of this file are in its network.
        "command": ["redis-server", "--port", port, "--protected-mode", "no", *options],
        "volumes": [f"{name}:/data"],
        "healthcheck": {
            "test": ["CMD", "redis-cli", "-p", port, "ping"], "interval": "2s", "timeout": "3s", "retries": 30,
        },
    }  # fmt: skip


def _grace_s(spec: ProcessSpec) -> int:
    return _FOR_EVER_S if spec.shutdown_s == INFINITY else round(spec.shutdown_s) + _MORE_GRACE_S


class _Text(str):
    """A text with variables that compose replaces."""

    __slots__ = ()


def _yaml(value: Any) -> str:
    """YAML of a value: JSON is a part of it. A dollar sign would begin a variable."""
    text = json.dumps(value, ensure_ascii=False)
    return text if isinstance(value, _Text) else text.replace("$", "$$")
