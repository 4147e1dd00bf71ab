"""Errors at the command line: one line, and whose fault it was as the exit code."""

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli.reported_errors import exit_code_of, reported
from orchestrator.core.errors import (
    BrokerUnavailable,
    DeliveryTimeout,
    EmbeddedServerError,
    InvalidMessage,
    NotSupervised,
    OrchestratorError,
    SendFailed,
    UnknownAgent,
    UnknownDeadLetter,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SendFailed("d1", "dead"), 1),
        (UnknownAgent("x", []), 2),
        (InvalidMessage("Charge", ["cents"]), 2),
        (UnknownDeadLetter("1-1"), 2),
        (NotSupervised("no"), 2),
        (DeliveryTimeout("d1", 1), 3),
        (BrokerUnavailable("redis://x", "refused"), 4),
        (EmbeddedServerError("no"), 4),
    ],
)
def test_the_exit_code_says_whose_fault_it_was(error: OrchestratorError, code: int) -> None:
    assert exit_code_of(error) == code


def test_an_error_is_one_line_on_stderr() -> None:
    @click.command()
    @reported
    def command() -> None:
        raise InvalidMessage("Charge", ["a\nb", "\x1b[31m"])

    result = CliRunner().invoke(command)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "Error: invalid Charge: a b; \\x1b[31m\n"


def test_a_defect_keeps_its_stack_trace() -> None:
    @click.command()
    @reported
    def command() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(command).exception, ZeroDivisionError)
