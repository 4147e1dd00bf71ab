"""Celery's own commands where the broker does not answer: one line, at once, instead of a stack trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import click
from celery import Celery
from celery.platforms import EX_UNAVAILABLE
from kombu.exceptions import OperationalError

from orchestrator.cli.output.printable import one_line
from orchestrator.core.errors import BrokerUnavailable
from orchestrator.transport.transport import is_supervised

#: They send or ask something, and end.
_SENDS: Final = ("call", "purge", "list", "migrate")
#: Each waits for replies: Celery tries twice for 4 s to connect before it says that it cannot.
_ASKS: Final = ("status", "inspect", "control")

_WHAT_TO_DO: Final = "start it, or name another one: ORCHESTRATOR_BROKER_URL, or the app's broker"


def report_broker_away(command: Any) -> None:
    """Have one of Celery's commands end with one line if the broker is away, as its ``status`` does."""
    if command.name in (*_SENDS, *_ASKS):
        command.invoke = _reporting(command.invoke, asks=command.name in _ASKS)


def _reporting(invoke: Callable[[click.Context], Any], *, asks: bool) -> Callable[[click.Context], Any]:
    @functools.wraps(invoke)
    def run(context: click.Context) -> Any:
        try:
            if asks:
                _connect(context.obj.app)
            return invoke(context)
        except OperationalError as error:
            click.echo(f"Error: {one_line(str(error))}; {_WHAT_TO_DO}", err=True)
            raise SystemExit(EX_UNAVAILABLE) from None

    return run


def _connect(app: Celery) -> None:
    """Connect once.

    Raises:
        kombu.exceptions.OperationalError: the broker is away; names it, without its password.
    """
    if not is_supervised(app.conf.broker_transport):
        return
    with app.connection_for_write() as connection:
        try:
            connection.transport.establish_connection()
        except connection.recoverable_connection_errors as error:
            raise OperationalError(str(BrokerUnavailable(connection.as_uri(), error))) from None
