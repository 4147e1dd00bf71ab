"""A delivered message, made without the detours of kombu's own where it is like most."""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any

from kombu.transport import virtual


class DeliveredMessage(virtual.Message):
    """As kombu's, which hands everything on by name, and looks the body's codec up, for each message."""

    #: The ``eta`` that Redis has waited for; none in a copy of a broadcast.
    eta_waited: Any = None

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        headers, properties = payload.get("headers"), payload["properties"]
        body = payload.get("body")
        if (
            kwargs
            or type(body) is not str
            or not body.isascii()
            or type(headers) is not dict
            or headers.get("compression")
            or properties.get("body_encoding") != "base64"
        ):
            super().__init__(payload, channel, **kwargs)
            return
        self._raw = payload
        self.errors: list[Any] = []
        self.channel = channel
        self.delivery_tag = properties["delivery_tag"]
        self.content_type = payload.get("content-type")
        self.content_encoding = payload.get("content-encoding")
        self.delivery_info = properties.get("delivery_info") or {}
        self.headers = headers
        self.properties = properties
        self._decoded_cache = None
        self._state = "RECEIVED"
        self.accept = None
        self.body = a2b_base64(body)
