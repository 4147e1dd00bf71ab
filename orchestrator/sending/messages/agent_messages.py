"""Building outgoing messages for agents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kombu import Queue

from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.calls.conversation import CURRENT as CONVERSATION
from orchestrator.core.deliveries.attempt_limits import earlier
from orchestrator.core.deliveries.supervision import Supervision
from orchestrator.core.errors import DeadlinePassed, InvalidPolicy
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.policies.effective import Effective
from orchestrator.core.policies.policy import WhenOpen
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.sending.address import Address, Addresses, Directory
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import NO_OPTIONS, SILENT, CheckedOptions

#: A message with less time left than this is not sent: no attempt of it could begin in time.
_LEAST_LEFT_S: Final = 0.001


def new_id() -> str:
    """A random UUID (version 4), at a third of the usual price."""
    return _uuid(os.urandom(16).hex())


def new_ids() -> Iterator[str]:
    """As many ids as are taken; the kernel is asked for the bytes of 64 at once. Not to be kept over a fork."""
    while True:
        some = os.urandom(64 * 16).hex()
        for at in range(0, len(some), 32):
            yield _uuid(some[at : at + 32])


def _uuid(n: str) -> str:
    return f"{n[:8]}-{n[8:12]}-4{n[13:16]}-{'89ab'[int(n[16], 16) % 4]}{n[17:20]}-{n[20:]}"


def build_agent_message(
    addresses: Addresses, recipient: Any, message: Message | None, options: CheckedOptions
) -> OutgoingMessage:
    """The outgoing message that takes ``message`` to an agent.

    Raises:
        CallerError: see :meth:`Addresses.address`; or ``message`` is not a message; or its deadline passes before it
            is due.
    """
    if not isinstance(message, Message):
        # An invalid recipient is reported before an invalid message.
        if not isinstance(recipient, str | type):
            addresses.address(recipient, "")
        raise InvalidPolicy("message", message, "an instance of a Message class")
    address = addresses.address(recipient, message_name(type(message)))
    is_usual = _is_usual(options) and address.policy.deadline_s is None and CONVERSATION.get() is None
    if is_usual and (like := address.usual.get(type(message))) is not None:
        if options.ends_by_s is None:
            return like.with_body(new_id(), [encode(message)])
        _refuse_passed(address.task, options.ends_by_s, time.time())
        supervision = like.supervision.with_run_and_deadline(None, options.ends_by_s)
        return like.with_body(new_id(), [encode(message)], supervision=supervision)
    built = build_message(
        addresses.timeouts,
        options,
        id=new_id(),
        task=address.task,
        args=[encode(message)],
        agent=address.agent,
        message=address.message,
        policy=address.policy,
        queue=address.queue,
        hide=secret_names(type(message)),
        bulkhead=address.bulkhead,
    )
    if is_usual:
        s = built.supervision
        address.usual.clear()
        address.usual[type(message)] = built.with_body(
            "", (), supervision=s if s.deadline_at_s is None else s.with_run_and_deadline(None, None)
        )
    return built


def _is_usual(options: CheckedOptions) -> bool:
    """Whether a send leaves all to the policy of its recipient, but for the deadline that it inherits."""
    return options is NO_OPTIONS or (
        options.policy is SILENT
        and options.track
        and options.countdown_s is None
        and options.idempotency is None
        and not options.metadata
    )


def _refuse_passed(task: str, ends_by_s: float, now_s: float) -> None:
    if ends_by_s < now_s + _LEAST_LEFT_S:
        raise DeadlinePassed(task, round(max(0.0, now_s - ends_by_s), 3))


def build_celery_message(
    address: Address, timeouts: Timeouts, countdown_s: float | None, hide: tuple[str, ...]
) -> OutgoingMessage:
    """The outgoing message for an agent's task that Celery sends by name; it is not tracked.

    Raises:
        InvalidPolicy: its deadline passes before it is due.
    """
    return build_message(
        timeouts,
        CheckedOptions(track=False, countdown_s=countdown_s),
        id="",
        task=address.task,
        args=(),
        agent=address.agent,
        message=address.message,
        policy=address.policy,
        queue=address.queue,
        hide=hide,
    )


def build_agent_messages(
    directory: Directory, recipient: Any, messages: Iterable[Message], options: CheckedOptions
) -> list[OutgoingMessage]:
    """The outgoing messages that take ``messages`` to one agent; the policy is worked out once for each type.

    Raises:
        CallerError: as :func:`build_agent_message`; ``messages`` is no list of messages.
    """
    if isinstance(messages, str | bytes | Mapping | Message) or not isinstance(messages, Iterable):
        raise InvalidPolicy("messages", messages, "a list of messages")
    first: dict[type, OutgoingMessage] = {}
    built = []
    ids = new_ids()
    for message in messages:
        like = first.get(type(message))
        if like is None:
            like = first[type(message)] = build_agent_message(directory, recipient, message, options)
            built.append(like)
        else:
            built.append(like.with_body(next(ids), [encode(message)]))
    return built


def build_message(
    timeouts: Timeouts,
    options: CheckedOptions,
    *,
    id: str,
    task: str,
    args: Any,
    agent: str,
    message: str,
    policy: Effective,
    queue: Queue | str | None,
    kwargs: Mapping[str, Any] | None = None,
    link: Sequence[Any] = (),
    link_error: Sequence[Any] = (),
    hide: tuple[str, ...] = (),
    more: Mapping[str, Any] | None = None,
    bulkhead: Bulkhead | None = None,
) -> OutgoingMessage:
    """An outgoing message, with its policy overridden by the options of its send. ``more`` are Celery's options.

    Raises:
        InvalidPolicy: its deadline passes before it is due.
        DeadlinePassed: it inherits a deadline that has passed, or does within a millisecond.
    """
    effective = policy if options.policy is SILENT else policy.over("send", options.policy)
    conversation = CONVERSATION.get()
    deadline_s, now_s = timeouts.scaled(effective.deadline_s), time.time()
    deadline_at_s = earlier(None if deadline_s is None else now_s + deadline_s, options.ends_by_s)
    by = effective.sources.get("deadline_s", "default")
    if options.ends_by_s is not None:
        _refuse_passed(task, options.ends_by_s, now_s)
        if deadline_at_s == options.ends_by_s:
            deadline_s, by = round(options.ends_by_s - now_s, 3), "what the sending handler handles"
    if deadline_s is not None and options.countdown_s is not None and deadline_s <= options.countdown_s:
        due = f"more than the time until its countdown or eta, for it is due in {options.countdown_s:g} s"
        raise InvalidPolicy("deadline_s", deadline_s, f"{due}; said by {by}")
    return OutgoingMessage(
        id,
        task,
        args,
        Supervision(
            effective.retry,
            effective.on_error,
            agent,
            message,
            options.metadata,
            track=options.track,
            timeout_s=timeouts.scaled(effective.timeout_s),
            deadline_at_s=deadline_at_s,
            idempotency=options.idempotency,
            dead_letter_expired=effective.dead_letter_expired,
            hide=hide,
            conversation=None if conversation is None else conversation.to_wire(),
            when_open="queue" if agent and effective.when_open is WhenOpen.QUEUE else "",
        ),
        kwargs or {},
        queue=queue,
        countdown_s=options.countdown_s,
        expires_s=effective.expires_s,
        priority=effective.priority,
        when_down=effective.when_down,
        link=link,
        link_error=link_error,
        options=more or {},
        bulkhead=bulkhead,
    )
