"""Our subcommands, run within the test's process, and the real ``celery``, run in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import click
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from chaos.forked_process import ROOT, run
from orchestrator import Orchestrator
from orchestrator.cli.dead_letters.group import dead_letters


def invoke(app: Celery, command: click.Command, *arguments: str, stdin: str | None = None) -> Result:
    """Run a subcommand as ``celery -A APP`` would; an exception of its own fails the test."""
    context = CLIContext(app=app, no_color=True, workdir=None)
    result = CliRunner().invoke(command, arguments, obj=context, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def dead_letters_json(orchestrator: Orchestrator, *arguments: str) -> Any:
    """The document that ``dead-letters ARGUMENTS --json`` prints; fails unless the exit code is 0."""
    result = invoke(orchestrator.app, dead_letters, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def celery(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real ``celery``."""
    return run(
        [sys.executable, "-m", "celery", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environment},
        cwd=ROOT,
    )
