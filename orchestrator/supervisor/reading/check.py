"""``orchestrator supervise --check``: what can be known without starting anything."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.checks.broker_url import masked
from orchestrator.core.checks.text import printable
from orchestrator.core.supervision_tree.spec import OnGiveUp, SupervisorSpec, allowed_ends, walk
from orchestrator.supervisor.reading.asked_app import NotImported, ask_app, is_redis_of_this_host
from orchestrator.supervisor.reading.definition import Definition, Kind

#: Answers with an app's agents whose mailboxes no worker of the tree serves, the queues of the tree's workers that no
#: agent, task or setting of the app names, the app's broker, the entries of beat whose queue no worker serves, and why
#: the queue of others is not known. If a route is a function, any queue may be meant.
_QUESTION = """
from celery.beat import Scheduler
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
def queue_of(entry):
    task = app.tasks.get(entry.task)
    options = {'queue': getattr(task, 'queue', None), **(entry.options or {})}
    queue = app.amqp.router.route({name: value for name, value in options.items() if value}, entry.task)['queue']
    return str(getattr(queue, 'name', queue))
beat = Scheduler(app, schedule={}, lazy=True)
unserved, faults = {}, {}
def attempt(name, act):
    try:
        return act()
    except Exception as error:
        # An entry, or a route, is not as Celery wants it. The others are looked at.
        faults[name] = f'{type(error).__name__}: {error}'
entries = app.conf.beat_schedule or {}
attempt('', lambda: beat.install_default_entries(entries))
for name in attempt('', lambda: list(entries)) or ():
    attempt(str(name), lambda: beat.update_from_dict({name: entries[name]}))
for name, entry in beat.schedule.items() if served is not None else ():
    queue = attempt(str(name), lambda: queue_of(entry))
    if queue is not None and queue not in [*served, *agents]:
        unserved.setdefault(queue, []).append(str(name))
answer = [
    [name for name in agents if served is not None and name not in served],
    [name for name in queues if known and name not in named],
    str(app.conf.broker_url or ''),
    unserved,
    faults,
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
            print(f"{path or definition.source}: {_limits(spec)}")
        else:
            print(printable(f"{path}: {shlex.join(definition.commands[path].arguments)}"))
    return code


def _limits(spec: SupervisorSpec) -> str:
    allowed = allowed_ends(spec)
    restarts = f"{allowed} restart{'' if allowed == 1 else 's'} in {spec.period_s:g} s"
    # All copies of all children have this one budget, which `hold` alone makes smaller.
    of_all = " of all its children together" if spec.on_give_up is OnGiveUp.HOLD else ""
    default = ' (the default with on_give_up = "hold")' if of_all and spec.intensity is None else ""
    return f"{spec.strategy}, {restarts}{of_all}{default}, then {spec.on_give_up}"


def _of_app(definition: Definition, app: str) -> list[str]:
    workers = [one for one in definition.commands.values() if one.kind is Kind.WORKER and one.app == app]
    # What a worker of kind `process` serves is not known.
    serves_all = not workers or any(not one.queues for one in workers)
    queues = sorted({queue for one in workers for queue in one.queues})
    asked = json.dumps([None if serves_all else queues, queues])
    try:
        unserved, unnamed, broker, of_beat, faults = ask_app(app, definition.directory, _QUESTION, asked)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"app {app}: not imported: {error}"]
    # Each app has a beat of its own.
    has_beat = any(one.kind is Kind.BEAT and one.app == app for one in definition.commands.values())
    return [
        *(f"no worker serves the mailbox of agent {name}" for name in unserved),
        *(f"queue {name}: no agent, task or setting of app {app} names it; is it misspelt?" for name in unnamed),
        *(
            f"no worker serves queue {queue}, to which beat sends {', '.join(entries)}; add it to a worker's queues"
            for queue, entries in of_beat.items()
            if has_beat
        ),
        *(
            f"entry {name!r} of beat_schedule: its queue is not known: {why}" if name else f"beat_schedule: {why}"
            for name, why in faults.items()
            if has_beat
        ),
        *_other_broker(definition, app, broker),
    ]


def _other_broker(definition: Definition, app: str, broker: str) -> Iterator[str]:
    """The app's broker, if the tree has a Redis and it is another one."""
    ports = [one.port for one in definition.commands.values() if one.kind is Kind.REDIS]
    if ports and broker and not any(is_redis_of_this_host(broker, port) for port in ports):
        yield (
            f"app {app}: its broker is {masked(broker)}, but the tree's Redis listens at 127.0.0.1:{ports[0]}; "
            "allowed: the same port in both, or the variable ORCHESTRATOR_BROKER_URL"
        )
