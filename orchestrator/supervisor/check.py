"""``orchestrator supervise --check``: what can be known without starting anything."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.core.supervision_tree_spec import SupervisorSpec, walk
from orchestrator.core.text import printable
from orchestrator.supervisor.definition import Definition, Kind

#: Longest time that an app's import may take.
_IMPORT_TIMEOUT_S = 60.0

#: Imports an app as ``celery -A`` does. Prints its agents' mailboxes that no worker of the tree serves, and the queues
#: of the tree's workers that no agent, task or setting of the app names. If a route is a function, any may be meant.
_IMPORT = """
import json, sys
from celery.app.utils import find_app
app = find_app(sys.argv[1])
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
print(json.dumps([
    [name for name in agents if served is not None and name not in served],
    [name for name in queues if known and name not in named],
]))
"""


def check(definition: Definition) -> int:
    """Print what is wrong, warnings and the tree; returns 2 if no worker of an app can run, else 0."""
    code = 0
    for app in definition.apps():
        try:
            warnings = _of_app(definition, app)
        except _NotImported as error:
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


class _NotImported(Exception):
    """An app cannot be imported: its workers would end with exit code 2."""


def _of_app(definition: Definition, app: str) -> list[str]:
    workers = [one for one in definition.commands.values() if one.kind is Kind.WORKER and one.app == app]
    # What a worker of kind `process` serves is not known.
    serves_all = not workers or any(not one.queues for one in workers)
    queues = sorted({queue for one in workers for queue in one.queues})
    asked = json.dumps([None if serves_all else queues, queues])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, app, asked],
            cwd=definition.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"app {app}: not imported: {error}"]
    if done.returncode:
        raise _NotImported((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    # An app may print, too.
    unserved, unnamed = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("[[")))
    return [
        *(f"no worker serves the mailbox of agent {name}" for name in unserved),
        *(f"queue {name}: no agent, task or setting of app {app} names it; is it misspelt?" for name in unnamed),
    ]
