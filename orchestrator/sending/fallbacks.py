"""What a call may fall back to: `Ask`, `Stale`, `Value`, `Send`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, Unpack

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.numbers import is_number
from orchestrator.sending.send_options import SEND_OPTIONS, CheckedOptions, SendOptions, check_options

#: Fallbacks of one call, at most.
_MOST: Final = 10

_LONGEST_AGE_S: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask another agent by the same message; it may take as long as the call may."""

    agent: Any


@dataclass(frozen=True, slots=True)
class Stale:
    """The last reply to an equal request, if it is no older. Calls with this fallback keep their replies for it.

    Raises:
        InvalidPolicy: the age is out of range.
    """

    max_age_s: float

    def __post_init__(self) -> None:
        if not is_number(self.max_age_s, 0.001, _LONGEST_AGE_S):
            raise InvalidPolicy("max_age_s", self.max_age_s, "seconds from 0.001 to a week")


@dataclass(frozen=True, slots=True)
class Value:
    """A fixed value, such as a default; it always works, so it comes last."""

    value: Any


@dataclass(frozen=True, slots=True, init=False)
class Send:
    """Send the message under supervision; the call returns a :class:`FallbackDelivery`.

    A ``durable`` one is written to Redis with the request, and sent from there when the request fails or times out,
    although its caller may have died. ``options`` are those of a :meth:`Orchestrator.send`.

    Raises:
        InvalidPolicy, TypeError: as for a send.
    """

    durable: bool
    options: CheckedOptions

    def __init__(self, *, durable: bool = False, **options: Unpack[SendOptions]) -> None:
        if not isinstance(durable, bool):
            raise InvalidPolicy("durable", durable, "True or False")
        if durable and (bad := options.keys() & {"countdown_s", "eta", "idempotency_key", "idempotency_ttl_s"}):
            raise InvalidPolicy("durable", durable, f"False, with {', '.join(sorted(bad))}")
        object.__setattr__(self, "durable", durable)
        object.__setattr__(self, "options", check_options(options, SEND_OPTIONS, "Send", frozenset({"durable"})))


Fallback: TypeAlias = Ask | Stale | Value | Send

#: What the parameter ``fallback`` of a call takes.
FallbackArgument: TypeAlias = bool | Mapping[str, Any] | Sequence[Fallback] | None


def check_fallbacks(fallback: FallbackArgument, recipient: object) -> tuple[Fallback, ...]:
    """How a call that does not succeed goes on; empty if it does not.

    Raises:
        InvalidPolicy: it says neither whether nor how; an agent would be asked twice; or an option has a bad value.
    """
    if fallback is None or fallback is False:
        return ()
    if fallback is True:
        return (Send(),)
    if isinstance(fallback, Mapping) and all(isinstance(name, str) for name in fallback):
        return (Send(**dict(fallback)),)
    allowed = f"True, False, the options of a send, or a list of 1 to {_MOST} of Ask, Stale, Value and Send"
    if not isinstance(fallback, list | tuple):
        raise InvalidPolicy("fallback", fallback, allowed)
    fallbacks = tuple(fallback)
    if not 1 <= len(fallbacks) <= _MOST or not all(isinstance(one, Ask | Stale | Value | Send) for one in fallbacks):
        raise InvalidPolicy("fallback", list(fallbacks), allowed)
    asked = {_name("recipient", recipient)}
    for number, one in enumerate(fallbacks):
        if isinstance(one, Ask):
            name = _name("Ask.agent", one.agent)
            if name in asked:
                raise InvalidPolicy("fallback", one, "each agent once, and not the one that is called")
            asked.add(name)
        if isinstance(one, Value | Send) and number < len(fallbacks) - 1:
            raise InvalidPolicy("fallback", one, "as the last one: nothing comes after it")
        if isinstance(one, Send) and one.durable and len(fallbacks) > 1:
            raise InvalidPolicy("fallback", one, "a durable Send alone: Redis sends it as soon as the request fails")
    return fallbacks


def _name(what: str, agent: object) -> str:
    name = getattr(agent, "name", agent)
    if not isinstance(name, str):
        raise InvalidPolicy(what, agent, "an agent's name, an Agent class, or a Celery signature")
    return name
