"""Errors at the command line: one line on stderr and an exit code, never a stack trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum
from typing import IO, Any, ParamSpec

import click

from orchestrator.cli.printable import one_line
from orchestrator.core.errors import CallerError, DeliveryTimeout, InfrastructureError, OrchestratorError

P = ParamSpec("P")


class ExitCode(IntEnum):
    """What our subcommands exit with."""

    OK = 0
    #: A delivery was not handled, or a ledger does not balance.
    NOT_HANDLED = 1
    CALLER = 2
    PENDING = 3
    INFRASTRUCTURE = 4


#: Click collapses lines unless a paragraph begins with \b.
EXIT_CODES = """\b
Exit codes:
  0  done
  1  a delivery was not handled, or a ledger does not balance
  2  what was asked for cannot be done as asked
  3  a delivery is still pending
  4  the broker did not answer"""


class Stop(click.ClickException):
    """Ends a command with one line on stderr."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(one_line(message))
        # Click 8.5 declares it for the class, and reads it from the instance.
        self.exit_code = int(code)  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"Error: {self.format_message()}", file=file, err=file is None)


def exit_code_of(error: OrchestratorError) -> ExitCode:
    """Whose fault it was."""
    match error:
        case CallerError():
            return ExitCode.CALLER
        case DeliveryTimeout():
            return ExitCode.PENDING
        case InfrastructureError():
            return ExitCode.INFRASTRUCTURE
        case _:
            return ExitCode.NOT_HANDLED


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors of ours become a line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OrchestratorError as error:
            raise Stop(str(error), exit_code_of(error)) from error

    return run
