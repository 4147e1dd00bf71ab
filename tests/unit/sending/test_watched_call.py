"""A call with retries whose time runs out before another request is sent."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from orchestrator import Constant, MailboxFull, Retry
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import DeadlinePassed
from orchestrator.sending.calls.watched_call import WatchedCall
from orchestrator.sending.messages.outgoing_message import OutgoingMessage


class _Full:
    """A backend whose mailboxes are full."""

    def waiting(self, request: OutgoingMessage, *, raises: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def inbox(self, inbox_id: str) -> AbstractContextManager[None]:
        return nullcontext()

    def send(self, message: OutgoingMessage) -> Any:
        raise MailboxFull("billing", depth=1, limit=1)


def _call(builds: Any) -> WatchedCall:
    backend: Any = _Full()
    retry = Retry(max_retries=5, backoff=Constant(0))
    return WatchedCall(backend, False, builds, 10.0, retry, None, None, runs_again=True)


def test_it_fails_with_the_error_of_its_last_request() -> None:
    built = []

    def build(left_s: float) -> OutgoingMessage:
        built.append(left_s)
        if len(built) == 3:
            raise DeadlinePassed("billing.Charge", 0.0)
        return OutgoingMessage("id", "billing.Charge", [], Supervision(agent="billing"))

    with pytest.raises(MailboxFull):
        _call(build).result()
    assert len(built) == 3


def test_it_says_so_if_no_request_was_sent_in_its_time() -> None:
    def build(left_s: float) -> OutgoingMessage:
        raise DeadlinePassed("billing.Charge", 0.0)

    with pytest.raises(DeadlinePassed):
        _call(build).result()
