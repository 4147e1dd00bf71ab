"""``--watch``: tables that are printed again and again, on a cleared screen."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import click
from celery.bin.base import CeleryOption

from orchestrator.cli.durations import METAVAR, Duration
from orchestrator.cli.output.printable import one_line
from orchestrator.core.errors import BrokerUnavailable, InvalidPolicy

T = TypeVar("T")


def watch_option(until: str) -> Any:
    """The option ``--watch [DURATION]``, given to the command as ``interval_s``."""
    return click.option(
        "--watch",
        "interval_s",
        type=Duration(0.1, 3600),
        is_flag=False,
        flag_value=2.0,
        metavar=METAVAR,
        cls=CeleryOption,
        help=f"Print the tables again at this interval (2 s if none is given), until {until}.",
    )


def refuse_json(interval_s: float | None, as_json: bool) -> None:
    """Refuse ``--watch`` with ``--json``.

    Raises:
        InvalidPolicy: both are given.
    """
    if interval_s is not None and as_json:
        raise InvalidPolicy("--watch", interval_s, "without --json, which prints one document")


def watch(interval_s: float, read: Callable[[], T], show: Callable[[T], None], ends: Callable[[T], bool]) -> None:
    """Read and show at an interval, until Ctrl-C or until what was read ``ends`` it.

    While Redis is away the last tables stay on the screen.
    """
    never = threading.Event()
    interrupts: list[int] = []

    def end(number: int, frame: object) -> None:
        # An exception that is raised in a destructor or weak-reference callback is lost, so record the signal too.
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    with contextlib.suppress(KeyboardInterrupt):
        while not interrupts:
            try:
                seen = read()
            except BrokerUnavailable as error:
                click.echo(one_line(str(error)), err=True)
            else:
                click.clear()
                show(seen)
                if ends(seen):
                    break
            never.wait(interval_s)
    signal.signal(signal.SIGINT, before)
