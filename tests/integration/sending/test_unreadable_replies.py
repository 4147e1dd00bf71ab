"""Replies and outcomes that something else has written: typed errors, and no other reply is held up."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest

from orchestrator import Orchestrator, UnreadableKey
from orchestrator.core.deliveries.outcome import Handled
from orchestrator.sending.calls.inbox import RedisInbox
from orchestrator.sending.calls.stale import RedisStaleReplies
from tests.apps.shop import Charge

RUBBISH = b"\xff\xfe{"


@pytest.mark.parametrize("fields", [{RUBBISH: RUBBISH}, {b"o": RUBBISH, b"l": b"a"}, {b"o": b"[1]", b"l": b"a"}])
def test_rubbish_in_an_inbox_is_passed_over(
    shop: Orchestrator, fields: dict[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the call that waited there raised KeyError or ValueError."""
    store = shop.runtime.store
    client: Any = store.client
    key = store.keys.inbox("i")
    client.xadd(key, fields)
    with RedisInbox(lambda: store, "i") as inbox:
        assert inbox.read(monotonic() + 0.05) == []
        client.xadd(key, fields)
        client.xadd(key, {"l": "label", "o": '{"outcome":"handled","result":1}'})
        ((label, outcome),) = inbox.read(monotonic() + 10)
    assert label == "label"
    assert isinstance(outcome, Handled)
    assert f"key '{key}' in Redis holds what this library does not write there" in caplog.text


@pytest.mark.parametrize("value", [RUBBISH, b"[1]", b"{}"])
def test_an_outcome_of_rubbish_is_an_error_that_names_the_key(shop: Orchestrator, value: bytes) -> None:
    client: Any = shop.runtime.store.client
    delivery = shop.send("billing", Charge(order_id="o", cents=1))
    client.rpush(f"orc:outcome:{delivery.id}", value)
    for ask in (delivery.outcome, lambda: delivery.wait(timeout_s=1)):
        with pytest.raises(UnreadableKey, match=f"orc:outcome:{delivery.id}"):
            ask()


@pytest.mark.parametrize("value", [RUBBISH, b"1 {", b"x 1"])
def test_a_stale_reply_of_rubbish_is_none(shop: Orchestrator, value: bytes) -> None:
    store = shop.runtime.store
    client: Any = store.client
    client.set(store.keys.stale_reply("k"), value, px=60_000)
    assert RedisStaleReplies(lambda: store).recall("k", 10**9) is None
