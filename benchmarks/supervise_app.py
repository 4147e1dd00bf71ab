"""The app of ``make bench-supervise``: its handler says where it runs, and stays there the first time."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from celery import Celery

from orchestrator import Agent, Message, Orchestrator, handles

#: Where the benchmark listens, and a directory in which the first run of a message leaves a mark.
SOCKET = "BENCH_SUPERVISE_SOCKET"


class Stay(Message):
    """Runs until its worker is killed, and ends at once the next time."""

    mark: str


class Staying(Agent):
    """Handles it."""

    name = "staying"

    @handles(Stay)
    def stay(self, message: Stay) -> None:
        """Say so, and stay."""
        is_first = not Path(message.mark).exists()
        Path(message.mark).touch()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(str(os.getpid()).encode(), os.environ[SOCKET])
        if is_first:
            time.sleep(1000)


app = Celery("bench-supervise", set_as_current=False)
orchestrator = Orchestrator(app)
orchestrator.host(Staying)
