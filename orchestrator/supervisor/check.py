"""``orchestrator supervise --check``: what can be known without starting anything."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.broker_url import masked
from orchestrator.core.supervision_tree_spec import SupervisorSpec, walk
from orchestrator.core.text import printable
from orchestrator.supervisor.asked_app import NotImported, ask_app, broker_of, is_redis_of_this_host
from orchestrator.supervisor.definition import Definition, Kind

#: Answers with an app's agents whose mailboxes no worker of the tree serves, and the queues of the tree's workers that
#: no agent, task or setting of the app names. If a route is a function, any may be meant.
_QUEUES = """
app.loader.import_default_modules()
served, queues = json.loads(sys.argv[2])
agents = getattr(getattr(app, 'orchestrator', None), 'agents', {})
routes = app.conf.task_routes or {}
tables = routes if isinstance(routes, (list, tuple)) else [routes]
named = {*agents, 'monitor-manager', app.conf.task_default_queue, *app.amqp.queues}
named |= {str(getattr(task, 'queue', '')) for task in app.tasks.values()}
for table in tables:
    rows = table.values() if isinstance(table, dict) else []
    named |= {str(row.get('queue') if isinstance(row, dict) else row) for row in rows}
known = all(isinstance(table, dict) for table in tables)
answer = [
    [name for name in agents if served is not None and name not in served],
    [name for name in queues if known and name not in named],
]
"""


def check(definition: Definition) -> int:
    """Print what is wrong, warnings and the tree; returns 2 if no worker of an app can run, else 0."""
    code = 0
    for app in definition.apps():
        try:
            warnings = _of_app(definition, app)
        except NotImported as error:
            print(f"error: app {app}: cannot be imported: {error}", file=sys.stderr)
            code = 2
            continue
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    for path, command in definition.commands.items():
        if shutil.which(command.arguments[0], path=command.environment.get("PATH")) is None:
            print(f"warning: {path}: {command.arguments[0]!r} is not an executable file on PATH", file=sys.stderr)
        if not Path(command.directory).is_dir():
            text = printable(f"warning: {path}: the directory {command.directory} is not there")
            print(text, file=sys.stderr)
    for path, spec in walk(definition.root):
        if isinstance(spec, SupervisorSpec):
            limits = f"{spec.strategy}, {spec.intensity} restarts in {spec.period_s:g} s, then {spec.on_give_up}"
            print(f"{path or definition.source}: {limits}")
        else:
            print(printable(f"{path}: {shlex.join(definition.commands[path].arguments)}"))
    return code


def _of_app(definition: Definition, app: str) -> list[str]:
    workers = [one for one in definition.commands.values() if one.kind is Kind.WORKER and one.app == app]
    # What a worker of kind `process` serves is not known.
    serves_all = not workers or any(not one.queues for one in workers)
    queues = sorted({queue for one in workers for queue in one.queues})
    asked = json.dumps([None if serves_all else queues, queues])
    try:
        unserved, unnamed = ask_app(app, definition.directory, _QUEUES, asked)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"app {app}: not imported: {error}"]
    return [
        *(f"no worker serves the mailbox of agent {name}" for name in unserved),
        *(f"queue {name}: no agent, task or setting of app {app} names it; is it misspelt?" for name in unnamed),
        *_other_broker(definition, app),
    ]


def _other_broker(definition: Definition, app: str) -> Iterator[str]:
    """The app's broker, if the tree has a Redis and it is another one."""
    ports = [one.port for one in definition.commands.values() if one.kind is Kind.REDIS]
    broker = broker_of(app, definition.directory) if ports else ""
    if broker and not any(is_redis_of_this_host(broker, port) for port in ports):
        yield (
            f"app {app}: its broker is {masked(broker)}, but the tree's Redis listens at 127.0.0.1:{ports[0]}; "
            "allowed: the same port in both, or the variable ORCHESTRATOR_BROKER_URL"
        )
