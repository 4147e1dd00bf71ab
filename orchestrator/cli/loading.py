"""Bad settings, met while ``celery -A APP`` imports the app: one line instead of a stack trace."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from orchestrator.cli.broker_away import report_broker_away
from orchestrator.cli.output.printable import one_line
from orchestrator.cli.reported_errors import ExitCode
from orchestrator.core.errors import InvalidSettings

P = ParamSpec("P")
R = TypeVar("R")


def report_bad_settings() -> None:
    """Have Celery's command line report settings that an operator has to correct, for every subcommand.

    Celery prints the stack trace of whatever an app's module raises, and lets a plug-in add commands only. So
    this wraps the function by which its command line loads the app, and Celery's own commands; it is
    called when Celery loads our commands, and does nothing in any other process. Mistakes in the code of an app
    keep their stack trace.
    """
    command_line: Any = sys.modules.get("celery.bin.celery")
    find_app = getattr(command_line, "find_app", None)
    if find_app is None or getattr(find_app, "__reports_bad_settings__", False):
        return

    find = _reporting(find_app)
    find.__reports_bad_settings__ = True  # type: ignore[attr-defined]
    command_line.find_app = find
    # These import further modules, look at what has come together, or connect to the broker.
    commands: list[Any] = [value for value in vars(command_line).values() if isinstance(value, click.Command)]
    for command in commands:
        report_broker_away(command)
        command.invoke = _reporting(command.invoke)


def _reporting(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InvalidSettings as error:
            click.echo(f"Error: {one_line(str(error))}", err=True)
            # Celery turns any Exception into a stack trace, Click's own included.
            raise SystemExit(int(ExitCode.CALLER)) from None

    return run
