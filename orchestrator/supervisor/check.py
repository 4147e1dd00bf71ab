"""``orchestrator supervise --check``: what can be known without starting anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from orchestrator.core.supervision_tree_spec import SupervisorSpec, walk
from orchestrator.supervisor.definition import Definition, Kind

#: Longest time that an app's import may take.
_IMPORT_TIMEOUT_S = 60.0

#: Imports an app as ``celery -A`` does, and prints its agents' mailboxes that no worker of the tree serves.
_IMPORT = """
import sys
from celery.app.utils import find_app
app = find_app(sys.argv[1])
app.loader.import_default_modules()
served = sys.argv[2].split(',') if sys.argv[2] else None
agents = getattr(getattr(app, 'orchestrator', None), 'agents', {})
print('\\n'.join(name for name in agents if served is not None and name not in served))
"""


def check(definition: Definition) -> int:
    """Print warnings and the tree; returns 0: what is wrong was refused before."""
    for app in definition.apps():
        for warning in _of_app(definition, app):
            print(f"warning: {warning}", file=sys.stderr)
    for path, command in definition.commands.items():
        if shutil.which(command.arguments[0], path=command.environment.get("PATH")) is None:
            print(f"warning: {path}: {command.arguments[0]!r} is not an executable file on PATH", file=sys.stderr)
        if not Path(command.directory).is_dir():
            print(f"warning: {path}: the directory {command.directory} is not there", file=sys.stderr)
    for path, spec in walk(definition.root):
        if isinstance(spec, SupervisorSpec):
            limits = f"{spec.strategy}, {spec.intensity} restarts in {spec.period_s:g} s, then {spec.on_give_up}"
            print(f"{path or definition.source}: {limits}")
        else:
            print(f"{path}: {' '.join(definition.commands[path].arguments)}")
    return 0


def _of_app(definition: Definition, app: str) -> list[str]:
    workers = [one for one in definition.commands.values() if one.kind is Kind.WORKER and one.app == app]
    # What a worker of kind `process` serves is not known.
    serves_all = not workers or any(not one.queues for one in workers)
    served = "" if serves_all else ",".join(queue for one in workers for queue in one.queues)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, app, served],
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
        why = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return [f"app {app}: cannot be imported: {why}"]
    return [f"no worker serves the mailbox of agent {name}" for name in done.stdout.split()]
