"""The agents of ``benchmarks.calls``, and the same task on Celery's own transport (``benchmarks.calls_app:stock``)."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import redis
from celery import Celery

from orchestrator import Agent, Context, Message, Orchestrator, Reply, handles, load_settings, replies

URL = os.environ.get("ORCHESTRATOR_BROKER_URL", "redis://127.0.0.1:1/0")

#: Redis lists by which the agents report.
HELD = "bench:held"
DONE = "bench:done"

#: Of the searches of the first worker, one in so many takes so long: about two in a hundred calls, so that the p99
#: without a hedge is that of the slow ones.
SLOW_ONE_IN = 25
SLOW_S = 1.0

#: The worker that is slow now and then.
SLOW_WORKER = "callee0"


class Ping(Message):
    """Is answered with its number."""

    number: int


class Search(Message):
    """Takes a second, now and then."""

    number: int


class Hold(Message):
    """Says who has it, and never ends."""


class Burst(Message):
    """Has the asker ask so many times, and report when all replies are there."""

    count: int
    #: Together, by `ask_many`; else one by one.
    together: bool = True


class Callee(Agent):
    """Answers."""

    name = "callee"
    _searches = 0

    @handles(Ping)
    def ping(self, message: Ping) -> int:
        """The number."""
        return message.number

    @handles(Search, idempotent=True)
    def search(self, message: Search, context: Context) -> int:
        """The number, late in a few cases."""
        self._searches += 1
        if context.worker.startswith(SLOW_WORKER) and self._searches % SLOW_ONE_IN == 0:
            threading.Event().wait(SLOW_S)
        return message.number

    @handles(Hold)
    def hold(self, _message: Hold) -> None:
        """Report the process, and wait."""
        redis.Redis.from_url(URL).rpush(HELD, os.getpid())
        threading.Event().wait(3600)


class Asker(Agent):
    """Asks without waiting; runs in one slot of one process."""

    name = "asker"
    _began_s = 0.0
    _left = 0

    @handles(Burst)
    def burst(self, message: Burst, context: Context) -> None:
        """Ask so many times."""
        self._began_s, self._left = time.monotonic(), message.count
        pings = [Ping(number=number) for number in range(message.count)]
        if message.together:
            context.ask_many("callee", pings, timeout_s=60, then=True)
            return
        for ping in pings:
            context.ask("callee", ping, timeout_s=60, then=True)

    @replies(Ping)
    def ponged(self, _reply: Reply) -> None:
        """Count; the last one reports how long all took."""
        self._left -= 1
        if self._left == 0:
            redis.Redis.from_url(URL).rpush(DONE, str(time.monotonic() - self._began_s))


def make(url: str) -> Orchestrator:
    """An app of its own."""
    made = Celery("calls", set_as_current=False, broker=url)
    made.conf.worker_hijack_root_logger = False
    orchestrator = Orchestrator(made, load_settings(broker_url=url))
    orchestrator.host(Callee, Asker)
    return orchestrator


def make_stock(url: str) -> Celery:
    """The same on Celery's own transport and result backend."""
    made = Celery("stock", set_as_current=False, broker=url, backend=url)
    made.conf.task_default_queue = "stock"
    made.task(name="ping", shared=False)(_ping)
    return made


def _ping(number: int) -> Any:
    return number


orchestrator = make(URL)
app = orchestrator.app
stock = make_stock(os.environ.get("STOCK_URL", URL))
