"""Reading mailbox entries: bytes from the network, so anything may be in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu.utils.json import loads as kombu_loads
from pydantic_core import from_json

from orchestrator.core.deliveries.death import UNPROVED
from orchestrator.core.deliveries.supervision import HEADER, header_in

#: What a replayed dead letter's envelope begins with, and the header that it becomes: the letter it was (``of``), the
#: one its line began with (``first``), how often it was replayed (``replays``), how often of that automatically
#: (``auto``), and the audit entry of the replay.
LINEAGE = "orc_lineage"

#: The header in which a retried message keeps when it was first accepted, in ms.
SENT = "orc_sent_ms"


def renewed(headers: Mapping[str, Any], lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a replayed dead letter: those of a first attempt, with its lineage."""
    fresh = {**headers, "retries": 0, "eta": None, "expires": None, LINEAGE: dict(lineage)}
    for name in (SENT, "redelivered"):
        fresh.pop(name, None)
    if (wire := header_in(headers)) is not None:
        supervision = {name: value for name, value in wire.items() if name != "failures"}
        fresh[HEADER] = {**supervision, "replay_of": str(lineage.get("of", ""))}
        if lineage.get("watched"):
            fresh[HEADER]["track"] = True
    return fresh


class MalformedEntry(ValueError):
    """An entry that is not a message kombu could have published."""


@dataclass(frozen=True, slots=True)
class DeathHistory:
    """The deaths of a message's earlier holders."""

    #: Deaths of processes that ran it, whether or not they count against it.
    deaths: int = 0
    #: Deaths that count against it (see requeue.lua).
    counted: int = 0
    #: Deaths that it may not have caused: they are not proved, or the holder died before the message began.
    unattributed: int = 0


def read_death_history(raw: bytes) -> DeathHistory:
    """The death history in the text that ``claim.lua`` returns; an empty one if the text is malformed."""
    unattributed_deaths, _, text = raw.partition(b" ")
    try:
        listed = json.loads(text) if text else []
        deaths = listed if isinstance(listed, list) else []
        counted = sum(_counts(death) for death in deaths)
        return DeathHistory(len(deaths), counted, int(unattributed_deaths or 0) + len(deaths) - counted)
    except (ValueError, RecursionError):
        return DeathHistory()


def _counts(death: Any) -> bool:
    return not isinstance(death, dict) or not (death.get("disproved") or str(death.get("reason")) in UNPROVED)


_OBJECT = re.compile(rb"\s*\{(?=\s*\")")


def with_lineage(raw: bytes, lineage: bytes) -> bytes:
    """A message as ``claim.lua`` gives it to who reads it: its entry's lineage, if any, before the other members."""
    if not lineage or (begins := _OBJECT.match(raw)) is None:
        return raw
    return b'%s"%s":%s,%s' % (raw[: begins.end()], LINEAGE.encode(), lineage, raw[begins.end() :])


def plain_loads(raw: bytes) -> Any:
    """As ``json.loads``, in half the time.

    Raises:
        ValueError: it is not JSON, or such as only ``json.loads`` reads (half a surrogate pair, very deep nesting).
    """
    # Keys are the same in every message. Values may be secrets, and are not to be kept.
    return from_json(raw, cache_strings="keys")


def loads(raw: bytes) -> Any:
    """As ``json.loads``, in half the time for most texts.

    Raises:
        ValueError, RecursionError: it is not JSON, or nested too deeply.
    """
    try:
        return plain_loads(raw)
    except ValueError:
        return json.loads(raw)


def decode(raw: bytes, *, tag: str, queue: str, redelivered: bool) -> dict[str, Any]:
    """The payload of one entry, addressed to this delivery.

    Raises:
        MalformedEntry: it is not JSON, or lacks what kombu's ``Message`` needs.
    """
    try:
        # kombu's decoder looks at every object for its own type marks; most messages have none.
        payload = kombu_loads(raw) if b'"__type__"' in raw else loads(raw)
    except Exception as error:  # noqa: BLE001
        # kombu's decoders of typed values raise whatever their constructors do.
        raise MalformedEntry(f"not JSON: {type(error).__name__}: {error}") from None
    if not isinstance(payload, dict):
        raise MalformedEntry(f"not a JSON object but {type(payload).__name__}")
    properties = payload.get("properties")
    if not isinstance(properties, dict):
        raise MalformedEntry("no properties")
    if not isinstance(payload.get("body"), str):
        raise MalformedEntry("no body")
    headers = payload.get("headers")
    if headers is None:
        headers = payload["headers"] = {}
    if not isinstance(headers, dict):
        raise MalformedEntry("headers are not an object")
    lineage = payload.pop(LINEAGE, None)
    if isinstance(lineage, dict):
        headers = payload["headers"] = renewed(headers, lineage)
    info = properties.get("delivery_info")
    if not isinstance(info, dict):
        info = properties["delivery_info"] = {"exchange": "", "routing_key": queue}
    if redelivered:
        info["redelivered"] = headers["redelivered"] = True
    properties["delivery_tag"] = tag
    return payload
