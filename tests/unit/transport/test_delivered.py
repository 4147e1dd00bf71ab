"""A delivered message is made the short way, and must be as kombu would have made it."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import virtual

from orchestrator.transport.delivered_message import DeliveredMessage

_FIELDS = (
    "channel", "delivery_tag", "content_type", "content_encoding", "delivery_info", "headers", "properties", "body",
    "accept", "errors", "_state", "_decoded_cache", "_raw",
)  # fmt: skip


def _payload(body: Any = "aGVsbG8=", headers: Any = None, **properties: Any) -> dict[str, Any]:
    return {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers if headers is not None else {"task": "t"},
        "properties": {
            "delivery_tag": "1-0@s",
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "q"},
            **properties,
        },
    }


@pytest.mark.parametrize(
    "payload",
    [
        _payload(),
        _payload(""),
        _payload("aGVs bG8\n="),
        _payload("aGVsbG8=é"),
        _payload("plain text é", body_encoding=None),
        _payload(delivery_info=None),
        _payload(headers={}),
        _payload(base64.b64encode(zlib.compress(b"hello")).decode(), {"compression": "application/x-gzip"}),
        _payload(base64.b64encode(b"no zip").decode(), {"compression": "application/x-gzip"}),
    ],
)
def test_it_is_as_kombu_makes_it(payload: dict[str, Any]) -> None:
    with Connection("memory://") as connection:
        channel = connection.default_channel
        ours, kombus = DeliveredMessage(payload, channel), virtual.Message(payload, channel)
    for field in _FIELDS:
        mine, its = getattr(ours, field), getattr(kombus, field)
        assert (len(mine) == len(its)) if field == "errors" else (mine == its), field
    assert ours.serializable() == kombus.serializable()


@pytest.mark.parametrize("payload", [_payload("a"), {**_payload(), "properties": {}}, {**_payload(), "properties": []}])
def test_it_refuses_what_kombu_refuses(payload: dict[str, Any]) -> None:
    with Connection("memory://") as connection:
        channel = connection.default_channel
        with pytest.raises((ValueError, KeyError, AttributeError)) as kombus:
            virtual.Message(payload, channel)
        with pytest.raises(kombus.type):
            DeliveredMessage(payload, channel)
