"""The fallbacks of a call: `Ask`, `Stale`, `Value`, `Send`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, Unpack

from orchestrator.core.checks.numbers import is_number
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.policies.policy import WhenOpen
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.spelling.option_names import named_options
from orchestrator.sending.send_options import SEND_OPTIONS, CheckedOptions, SendOptions, check_options

#: Fallbacks of one call, at most.
_MOST: Final = 10

_LONGEST_AGE_S: Final = 7 * 24 * 3600.0


@named_options
@dataclass(frozen=True, slots=True)
class Ask:
    """Send the same request to another agent, with the call's ``timeout_s`` again.

    Raises:
        InvalidPolicy: it is neither a name nor an Agent class.
    """

    agent: Any

    def __post_init__(self) -> None:
        name = getattr(self.agent, "name", None) if isinstance(self.agent, type) else self.agent
        if not isinstance(name, str) or not name:
            raise InvalidPolicy("agent", self.agent, "an agent's name, or an Agent class")


@named_options
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


@named_options
@dataclass(frozen=True, slots=True)
class Value:
    """A fixed value, such as a default; it always works, so it comes last."""

    value: Any


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Send:
    """Send the message under supervision; the call returns a :class:`FallbackDelivery`.

    A ``durable`` one is written to Redis with the request, and sent from there when the request fails or times out,
    although its caller may have died. ``options`` are those of a :meth:`Orchestrator.send`; ``when_open`` is
    ``"queue"`` unless they say otherwise, because the breaker that refused the request would refuse the message too.

    Raises:
        InvalidPolicy, TypeError: as for a send.
    """

    durable: bool
    options: CheckedOptions
    #: As they were written.
    _given: Mapping[str, Any] = field(compare=False)

    def __init__(self, *, durable: bool = False, **options: Unpack[SendOptions]) -> None:
        if not isinstance(durable, bool):
            raise InvalidPolicy("durable", durable, "True or False")
        if durable and (bad := options.keys() & {"countdown_s", "eta", "idempotency_key", "idempotency_ttl_s"}):
            raise InvalidPolicy("durable", durable, f"False, with {', '.join(sorted(bad))}")
        object.__setattr__(self, "durable", durable)
        deferrable: SendOptions = {"when_open": WhenOpen.QUEUE, **options}
        object.__setattr__(self, "options", check_options(deferrable, SEND_OPTIONS, "Send", frozenset({"durable"})))
        object.__setattr__(self, "_given", options)

    def __repr__(self) -> str:
        given = {"durable": True, **self._given} if self.durable else self._given
        return f"Send({', '.join(f'{name}={masked_repr(value)}' for name, value in given.items())})"


Fallback: TypeAlias = Ask | Stale | Value | Send

#: What the parameter ``fallback`` of a call takes.
FallbackArgument: TypeAlias = bool | Mapping[str, Any] | Sequence[Fallback] | None


def check_fallbacks(fallback: FallbackArgument, recipient: object) -> tuple[Fallback, ...]:
    """The fallbacks of a call that does not succeed; empty if it has none.

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
