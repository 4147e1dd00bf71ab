"""Building outgoing messages for plain Celery tasks, from their signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from celery import Celery
from celery.canvas import Signature
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.serialization import prepare_accept_content, registry

from orchestrator.core.errors import InvalidPolicy
from orchestrator.core.message import Message
from orchestrator.core.policies.effective import Policy, priority_of, seconds
from orchestrator.sending.address import Directory
from orchestrator.sending.celery_sends import has_own_way
from orchestrator.sending.messages.agent_messages import build_message, new_id
from orchestrator.sending.messages.outgoing_message import OutgoingMessage
from orchestrator.sending.send_options import CheckedOptions

#: The ``expires_s`` of a message that has expired.
_SHORTEST_S: Final = 0.001

#: Options of a signature that a send has too. Celery runs callbacks after success, errbacks after the last failure.
_OF_A_SEND = frozenset({"task_id", "queue", "countdown", "eta", "expires", "priority", "link", "link_error"})

#: Other options that Celery knows. A task class with its own ``apply_async`` may know more.
_OF_CELERY = frozenset({
    "headers", "exchange", "routing_key", "shadow", "serializer", "compression", "delivery_mode", "mandatory",
    "immediate", "time_limit", "soft_time_limit", "ignore_result", "retry", "retry_policy", "argsrepr", "kwargsrepr",
    "reply_to", "root_id", "parent_id", "group_id", "group_index", "chord", "stamped_headers", "add_to_parent",
})  # fmt: skip

#: What a signature may have as options.
KNOWN_OPTIONS: Final = _OF_A_SEND | _OF_CELERY


def build_task_message(
    app: Celery, directory: Directory, signature: Signature, message: Message | None, options: CheckedOptions
) -> OutgoingMessage:
    """The outgoing message that takes a Celery signature to its task.

    Raises:
        InvalidPolicy: the signature cannot be sent under supervision.
    """
    if message is not None:
        raise InvalidPolicy("message", message, "nothing, when a Celery signature is sent")
    if signature.task.startswith("celery."):
        raise InvalidPolicy("recipient", signature, "a task's signature; a canvas is started by send(), as a workflow")
    own = {name: value for name, value in signature.options.items() if value is not None}
    task = app.tasks.get(signature.task)
    known = KNOWN_OPTIONS | frozenset(own.get("stamped_headers") or ())
    if (task is None or not has_own_way(task)) and (refused := sorted(set(own) - known)):
        raise InvalidPolicy("signature options", refused, ", ".join(sorted(KNOWN_OPTIONS)))
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
    expires_s = _seconds_until(app, "expires", own.get("expires"))
    if expires_s is not None:
        # Celery sends what has expired already.
        expires_s = max(expires_s, _SHORTEST_S)
    of_signature = Policy(expires_s=expires_s, priority=priority_of(own.get("priority")))
    countdown_s = countdown_of(app, own)
    return build_message(
        directory.timeouts,
        options if options.countdown_s is not None else replace(options, countdown_s=countdown_s),
        id=own.get("task_id") or new_id(),
        task=signature.task,
        args=signature.args,
        kwargs=signature.kwargs,
        agent="",
        message=signature.task,
        policy=directory.timeouts.merged(signature.task).over("signature", of_signature),
        queue=own.get("queue"),
        link=maybe_list(own.get("link")) or (),
        link_error=maybe_list(own.get("link_error")) or (),
        more={name: value for name, value in own.items() if name not in _OF_A_SEND},
    )


def countdown_of(app: Celery, options: Mapping[str, Any]) -> float | None:
    """Seconds until a message with Celery's ``options`` is due; ``None`` if it is due at once.

    Raises:
        InvalidPolicy: ``countdown`` is no number of seconds, or ``eta`` no time.
    """
    if options.get("countdown") is not None:
        return seconds("countdown", options["countdown"])
    return _seconds_until(app, "eta", options.get("eta"))


def _seconds_until(app: Celery, name: str, value: Any) -> float | None:
    """Seconds until a moment in any form that Celery takes: seconds, or a time, in the app's zone if it names none.

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
    """The content types that the app's workers accept, if they would refuse this serializer; otherwise empty."""
    accepted = app.conf.accept_content
    if serializer is None or accepted is None:
        return ""
    types = prepare_accept_content(accepted)
    content = registry.name_to_type.get(serializer, serializer)
    return "" if content in types else ", ".join(sorted(accepted)) + " (the app's accept_content)"
