"""From a recipient and a message to a parcel: where it goes, and how it is supervised on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from celery import Celery
from celery.canvas import Signature, _chain, chain
from celery.utils.functional import maybe_list
from kombu import Queue
from kombu.serialization import prepare_accept_content, registry

from orchestrator.core.effective import Effective, Policy, merge, priority_of, seconds
from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.message import Message, encode, message_name
from orchestrator.core.secret_names import secret_names
from orchestrator.core.supervision import Supervision
from orchestrator.core.timeouts import Timeouts
from orchestrator.sending.options import SendOptions
from orchestrator.sending.publish import Parcel

#: What a signature may say for itself. Callbacks run when Celery runs them: after success, or the last attempt.
_OF_A_SIGNATURE = frozenset({"task_id", "queue", "countdown", "expires", "priority", "link", "link_error"})


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


def to_agent(directory: Directory, recipient: Any, message: Message | None, options: SendOptions) -> Parcel:
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


def to_agent_each(
    directory: Directory, recipient: Any, messages: Iterable[Message], options: SendOptions
) -> list[Parcel]:
    """The parcels that take messages to one agent; what is the same for all of one kind is asked once.

    Raises:
        CallerError: as :func:`to_agent`.
    """
    first: dict[type, Parcel] = {}
    parcels = []
    for message in messages:
        like = first.get(type(message))
        if like is None:
            like = first[type(message)] = to_agent(directory, recipient, message, options)
            parcels.append(like)
        else:
            parcels.append(like.another(new_id(), [encode(message)]))
    return parcels


def to_task(
    app: Celery, directory: Directory, signature: Signature, message: Message | None, options: SendOptions
) -> Parcel:
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
    refused = sorted(set(own) - _OF_A_SIGNATURE)
    if refused:
        raise InvalidPolicy("signature options", refused, ", ".join(sorted(_OF_A_SIGNATURE)))
    task = app.tasks.get(signature.task)
    if task is not None and not task.acks_late:
        raise InvalidPolicy("acks_late", False, f"True, for {signature.task} to be supervised")
    if why := getattr(task, "__unsupervised__", ""):
        raise InvalidPolicy("recipient", signature.task, f"a task that can be supervised; not this one, {why}")
    if why := unreadable(app, task):
        raise InvalidPolicy("serializer", task.serializer, f"for {signature.task}, {why}")
    said = Policy(expires_s=seconds("expires", own.get("expires")), priority=priority_of(own.get("priority")))
    countdown_s = seconds("countdown", own.get("countdown"))
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
    )


def unreadable(app: Celery, task: Any) -> str:
    """Of a task whose messages the app's own workers would refuse to read, what they do read; else empty."""
    serializer, accepted = getattr(task, "serializer", None), app.conf.accept_content
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
    options: SendOptions,
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
) -> Parcel:
    effective = policy.over("send", options.policy)
    deadline_s = timeouts.scaled(effective.deadline_s)
    if deadline_s is not None and options.countdown_s is not None and deadline_s <= options.countdown_s:
        by = effective.sources.get("deadline_s", "default")
        due = f"more than the time until its countdown or eta, for it is due in {options.countdown_s:g} s"
        raise InvalidPolicy("deadline_s", deadline_s, f"{due}; said by {by}")
    return Parcel(
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
            once=options.once,
            bury_expired=effective.bury_expired,
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
    )
