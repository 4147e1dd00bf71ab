"""Asks an app what only its import tells, in a process of its own: the supervising process imports no Celery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: Longest time that an app's import may take.
_IMPORT_TIMEOUT_S = 60.0

#: Imports an app as ``celery -A`` does, and prints the answer behind a mark, for an app may print, too.
_ASK = """
import json, sys
from celery.app.utils import find_app
app = find_app(sys.argv[1])
{question}
print('\\nanswer: ' + json.dumps(answer))
"""

_BROKER = "answer = str(app.conf.broker_url or '')"

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: The port of a broker's URL that names none.
REDIS_PORT = 6379


class NotImported(Exception):
    """An app cannot be imported: its workers would end with exit code 2."""


def ask_app(app: str, directory: Path, question: str, *arguments: str) -> Any:
    """The value of ``answer`` after the code of a question, which finds the app as ``app``.

    Raises:
        NotImported: the app cannot be imported; its error's last line.
        OSError, TimeoutExpired: it was not imported, for another reason.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = subprocess.run(
        [sys.executable, "-c", _ASK.format(question=question), app, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_IMPORT_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise NotImported((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    lines = (line for line in reversed(done.stdout.splitlines()) if line.startswith("answer: "))
    return json.loads(next(lines).removeprefix("answer: "))


def broker_of(app: str, directory: Path) -> str:
    """The broker's URL that an app names; '' if it names none, or does not say in time.

    Raises:
        NotImported: the app cannot be imported.
    """
    try:
        return str(ask_app(app, directory, _BROKER))
    except (OSError, subprocess.TimeoutExpired):
        return ""


def is_redis_of_this_host(url: str, port: int) -> bool:
    """Whether a broker's URL is that of a Redis at this port of the loopback interface."""
    first = urlsplit(url.partition(";")[0])
    return first.scheme == "redis" and first.hostname in _LOOPBACK and (first.port or REDIS_PORT) == port
