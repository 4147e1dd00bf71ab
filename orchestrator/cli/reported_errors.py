"""Errors at the command line: one line on stderr and an exit code, never a stack trace."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import IO, Any, Final, ParamSpec

import click

from orchestrator.cli.output.printable import one_line
from orchestrator.core.errors import (
    AgentDown,
    BulkheadFull,
    CallerError,
    CircuitOpen,
    DeliveryTimeout,
    InfrastructureError,
    MailboxFull,
    OrchestratorError,
)

P = ParamSpec("P")

#: Of a write to a disk that takes no more.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class ExitCode(IntEnum):
    """What our subcommands exit with: one code, one meaning, whatever the command."""

    OK = 0
    #: The command ran, and what it looked at is not as it should be; each command says what that means.
    NOT_HANDLED = 1
    CALLER = 2
    PENDING = 3
    INFRASTRUCTURE = 4
    REFUSED = 5


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.CALLER: "what was asked for cannot be done as asked",
    ExitCode.PENDING: "a delivery is still pending",
    ExitCode.INFRASTRUCTURE: "the broker did not answer",
    ExitCode.REFUSED: "the recipient takes no message now: it is down, full, or its circuit breaker is open",
}


def exit_codes(*further: ExitCode, failed: str = "", ok: str = "") -> str:
    """The exit codes of one command for its help: 0, 2, 4 and these; ``failed`` is what 1 means, if it ends so."""
    meanings = {
        **_MEANINGS,
        **({ExitCode.OK: ok} if ok else {}),
        **({ExitCode.NOT_HANDLED: failed} if failed else {}),
    }
    codes = {ExitCode.OK, ExitCode.CALLER, ExitCode.INFRASTRUCTURE, *further}
    codes |= {ExitCode.NOT_HANDLED} if failed else set()
    # Click collapses lines unless a paragraph begins with \b.
    return "\n".join(["\b", "Exit codes:", *(f"  {code.value}  {meanings[code]}" for code in sorted(codes))])


#: Of commands that only look.
EXIT_CODES = exit_codes()


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
    """The exit code that stands for an error."""
    match error:
        case CallerError():
            return ExitCode.CALLER
        case DeliveryTimeout():
            return ExitCode.PENDING
        case AgentDown() | MailboxFull() | CircuitOpen() | BulkheadFull():
            return ExitCode.REFUSED
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
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if error.filename is not None:
                raise Stop(f"{error.filename}: {error.strerror}", ExitCode.NOT_HANDLED) from error
            # What is still in the buffer would fail again at exit, with a traceback.
            with Path(os.devnull).open("w") as null:
                os.dup2(null.fileno(), sys.stdout.fileno())
            raise Stop(f"the output could not be written: {error.strerror}", ExitCode.NOT_HANDLED) from error

    return run
