"""From a recipient and a message to a parcel: where it goes, and how it is supervised on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from celery import Celery
from celery.canvas import Signature, _chain, chain
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Queue
from kombu.serialization import prepare_accept_content, registry

from orchestrator.core.effective import Effective, Policy, merge, priority_of, seconds
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.secret_names import secret_names
from orchestrator.core.supervision import Supervision
from orchestrator.core.timeouts import Timeouts
from orchestrator.sending.celery_sends import has_own_way
from orchestrator.sending.publish import OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions

#: What a signature may say that a send has too. Callbacks run when Celery runs them: after success, or at the end.
_OF_A_SEND = frozenset({"task_id", "queue", "countdown", "eta", "expires", "priority", "link", "link_error"})

#: What else Celery knows. A class with an ``apply_async`` of its own may know more.
_OF_CELERY = frozenset({
    "headers", "exchange", "routing_key", "shadow", "serializer", "compression", "delivery_mode", "mandatory",
    "immediate", "time_limit", "soft_time_limit", "ignore_result", "retry", "retry_policy", "argsrepr", "kwargsrepr",
    "reply_to", "root_id", "parent_id", "group_id", "group_index", "chord", "stamped_headers", "add_to_parent",
})  # fmt: skip


def new_id() -> str:
    """A random UUID (version 4), at a third of the usual price."""
    n = os.urandom(16).hex()
    return f"{n[:8]}-{n[8:12]}-4{n[13:16]}-{'89ab'[int(n[16], 16) % 4]}{n[17:20]}-{n[20:]}"


@dataclass(frozen=True, slots=True)
class Address:
    """One kind of message for one agent: where it goes, and the policy that applies unless the send says otherwise."""

    agent: str
    message: str
    task: str
    queue: Queue | str
    policy: Effective


class Directory(Protocol):
    """Knows the agents, and what the settings say of a task."""

    timeouts: Timeouts

    def address(self, recipient: Any, message: str) -> Address:
        """The address of a message, by its name on the wire, at an agent, by its name or class.

        Raises:
            InvalidPolicy: the recipient is neither.
            UnknownAgent: nobody has declared or announced the agent.
            UnknownMessage: the agent does not handle the message.
        """

    def by_task(self, task: str) -> Address | None:
        """The address of the agent's message that a task's name stands for, if it stands for one."""

    def hidden_in(self, address: Address) -> tuple[str, ...]:
        """The names of a message's secret fields."""


def build_agent_message(
    directory: Directory, recipient: Any, message: Message | None, options: CheckedOptions
) -> OutgoingMessage:
    """The parcel that takes a message to an agent.

    Raises:
        CallerError: see :meth:`Directory.address`; or ``message`` is not a message; or its deadline passes before it
            is due.
    """
    if not isinstance(message, Message):
        # A recipient that is none is the first thing to be told of.
        if not isinstance(recipient, str | type):
            directory.address(recipient, "")
        raise InvalidPolicy("message", message, "an instance of a Message class")
    address = directory.address(recipient, message_name(type(message)))
    return _parcel(
        directory.timeouts,
        options,
        id=new_id(),
        task=address.task,
        args=[encode(message)],
        agent=address.agent,
        message=address.message,
        policy=address.policy,
        queue=address.queue,
        hide=secret_names(type(message)),
    )


def by_celery_to(
    address: Address, timeouts: Timeouts, countdown_s: float | None, hide: tuple[str, ...]
) -> OutgoingMessage:
    """How an agent's message goes that Celery sends by its task's name; nobody has its delivery in hand.

    Raises:
        InvalidPolicy: its deadline passes before it is due.
    """
    return _parcel(
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
    """The parcels that take messages to one agent; what is the same for all of one kind is asked once.

    Raises:
        CallerError: as :func:`build_agent_message`.
    """
    first: dict[type, OutgoingMessage] = {}
    parcels = []
    for message in messages:
        like = first.get(type(message))
        if like is None:
            like = first[type(message)] = build_agent_message(directory, recipient, message, options)
            parcels.append(like)
        else:
            parcels.append(like.with_body(new_id(), [encode(message)]))
    return parcels


def build_task_message(
    app: Celery, directory: Directory, signature: Signature, message: Message | None, options: CheckedOptions
) -> OutgoingMessage:
    """The parcel that takes a Celery signature to its task.

    Raises:
        InvalidPolicy: the signature cannot be sent under supervision.
    """
    if message is not None:
        raise InvalidPolicy("message", message, "nothing, when a Celery signature is sent")
    signature = _first_of(signature)
    if signature.task.startswith("celery."):
        allowed = "a task's signature, or a chain that begins with one; start this with its own apply_async()"
        raise InvalidPolicy("recipient", signature, f"{allowed}, and each of its tasks is executed under supervision")
    own = {name: value for name, value in signature.options.items() if value is not None}
    task = app.tasks.get(signature.task)
    known = _OF_A_SEND | _OF_CELERY | frozenset(own.get("stamped_headers") or ())
    if (task is None or not has_own_way(task)) and (refused := sorted(set(own) - known)):
        raise InvalidPolicy("signature options", refused, ", ".join(sorted(_OF_A_SEND | _OF_CELERY)))
    if not isinstance(own.get("headers", {}), Mapping):
        raise InvalidPolicy("headers", own["headers"], "an object")
    if task is not None and not task.acks_late:
        raise InvalidPolicy("acks_late", False, f"True, for {signature.task} to be supervised")
    if why := getattr(task, "__unsupervised__", ""):
        raise InvalidPolicy("recipient", signature.task, f"a task that can be supervised; not this one, {why}")
    if why := unreadable(app, own.get("serializer", getattr(task, "serializer", None))):
        raise InvalidPolicy(
            "serializer", own.get("serializer", getattr(task, "serializer", "")), f"for {signature.task}, {why}"
        )
    said = Policy(
        expires_s=_seconds_until(app, "expires", own.get("expires")), priority=priority_of(own.get("priority"))
    )
    countdown_s = said_countdown(app, own)
    return _parcel(
        directory.timeouts,
        options if options.countdown_s is not None else replace(options, countdown_s=countdown_s),
        id=own.get("task_id") or new_id(),
        task=signature.task,
        args=signature.args,
        kwargs=signature.kwargs,
        agent="",
        message=signature.task,
        policy=merge(
            ("settings", directory.timeouts.floor),
            ("settings", directory.timeouts.policy(signature.task)),
            ("signature", said),
        ),
        queue=own.get("queue"),
        link=maybe_list(own.get("link")) or (),
        link_error=maybe_list(own.get("link_error")) or (),
        more={name: value for name, value in own.items() if name not in _OF_A_SEND},
    )


def said_countdown(app: Celery, said: Mapping[str, Any]) -> float | None:
    """How long until what Celery is to send is due.

    Raises:
        InvalidPolicy: it says neither seconds nor a time.
    """
    if said.get("countdown") is not None:
        return seconds("countdown", said["countdown"])
    return _seconds_until(app, "eta", said.get("eta"))


def _seconds_until(app: Celery, name: str, value: Any) -> float | None:
    """How long until a moment that is said as Celery takes it: seconds, or a time, by the app's zone if it has none.

    Raises:
        InvalidPolicy: it is neither.
    """
    if isinstance(value, str | datetime):
        try:
            at = maybe_make_aware(maybe_iso8601(value), app.timezone)
        except (TypeError, ValueError):
            raise InvalidPolicy(name, value, "seconds, or a time") from None
        value = max(0.0, (at - datetime.now(UTC)).total_seconds())
    return seconds(name, value)


def unreadable(app: Celery, serializer: str | None) -> str:
    """Of messages in a serializer that the app's own workers would refuse to read, what they do read; else empty."""
    accepted = app.conf.accept_content
    if serializer is None or accepted is None:
        return ""
    types = prepare_accept_content(accepted)
    content = registry.name_to_type.get(serializer, serializer)
    return "" if content in types else ", ".join(sorted(accepted)) + " (the app's accept_content)"


def _first_of(signature: Signature) -> Signature:
    """Of a chain its first task, with the others as its callback; of anything else that itself."""
    while isinstance(signature, _chain) and signature.tasks:
        # Celery's own way to give each task the chain's errbacks, and the last one its callbacks.
        first, *rest = signature.unchain_tasks()
        options = {name: value for name, value in signature.options.items() if name not in ("link", "link_error")}
        last_id = options.pop("task_id", None)
        if last_id is not None:
            (rest or [first])[-1].set(task_id=last_id)
        first = first.clone(signature.args).set(**options)
        if rest:
            first.link(chain(*rest) if len(rest) > 1 else rest[0])
        signature = first
    return signature


def _parcel(
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
) -> OutgoingMessage:
    effective = policy.over("send", options.policy)
    deadline_s = timeouts.scaled(effective.deadline_s)
    if deadline_s is not None and options.countdown_s is not None and deadline_s <= options.countdown_s:
        by = effective.sources.get("deadline_s", "default")
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
            deadline_at_s=None if deadline_s is None else time.time() + deadline_s,
            idempotency=options.idempotency,
            dead_letter_expired=effective.dead_letter_expired,
            hide=hide,
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
    )
