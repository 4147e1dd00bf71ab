"""The sender process: before each send it writes an intent to the witness, and after it the acceptance."""

from __future__ import annotations

import logging
import signal
import sys
import time
from types import FrameType

from celery.utils import uuid
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from chaos.app import ID, WORK, Busy, Poison, Work, orchestrator
from chaos.load import Order, orders
from chaos.witness import witness
from orchestrator.core.errors import BrokerUnavailable

logger = logging.getLogger(__name__)

#: A sender that could not send for a while catches up on at most this many seconds.
_AT_MOST_BEHIND_S = 0.5

_AWAY = (OperationalError, RedisError, BrokerUnavailable, OSError)


class Sender:
    """Sends at a steady rate until it is stopped."""

    def __init__(self, seed: int, rate: float, poison_every: int) -> None:
        self._orders = orders(seed, poison_every)
        self._pause_s = 1 / rate
        self._stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def run(self) -> None:
        """Send; the send that is under way when the signal comes is finished."""
        due = time.monotonic()
        while not self._stopping:
            due = max(due + self._pause_s, time.monotonic() - _AT_MOST_BEHIND_S)
            time.sleep(max(0.0, due - time.monotonic()))
            if not self._send(next(self._orders)):
                self._wait_for_broker()

    def _send(self, order: Order) -> bool:
        message_id = uuid()
        fields = {name: getattr(order, name) for name in ("kind", "nap_ms", "failures", "countdown_ms", "priority")}
        witness().write("intent", message_id, **fields, track=order.track)
        try:
            _publish(order, message_id)
        except _AWAY as error:
            witness().write("uncertain", message_id, error=str(error)[:200])
            return False
        witness().write("accepted", message_id)
        return True

    def _wait_for_broker(self) -> None:
        while not self._stopping:
            try:
                orchestrator.runtime.store.client.ping()
            except _AWAY:
                time.sleep(0.05)
            else:
                return


def _publish(order: Order, message_id: str) -> None:
    countdown_s = order.countdown_ms / 1000 or None
    if order.kind == "plain":
        orchestrator.app.send_task(
            WORK, args=[order.nap_ms], task_id=message_id, countdown=countdown_s, priority=order.priority
        )
        return
    orchestrator.send(
        Busy,
        Poison() if order.kind == "poison" else Work(nap_ms=order.nap_ms, failures=order.failures),
        countdown_s=countdown_s,
        priority=order.priority,
        # The witness must know an id before the send, which draws its own only when it runs.
        metadata={ID: message_id},
        track=order.track,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Sender(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])).run()
