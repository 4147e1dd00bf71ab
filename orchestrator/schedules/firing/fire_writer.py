"""Writes the message of a fire. Celery writes one of each kind, and the others are made from its text.

Celery writes each message by itself if something may change or observe it (a signal's receiver, a router, a task class'
own ``apply_async``), or if it depends on the time of its sending (``expires``, a deadline, a countdown). In either case
it is only written here: the script of the fire accepts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

from celery import Celery, signals
from kombu import Producer

from orchestrator.agents.periodic import MISSED, SCHEDULE, SCHEDULED_FOR
from orchestrator.core.schedules.definition import ScheduleDefinition
from orchestrator.core.schedules.state import delivery_id_of
from orchestrator.core.schedules.values import Overlap, Recipient, TaskRecipient
from orchestrator.schedules.declared.entry_options import ELSEWHERE
from orchestrator.schedules.firing.exactness import why_sent_elsewhere
from orchestrator.schedules.firing.fire_kinds import (
    ANY_ID,
    ANY_MISSED,
    ANY_TIME,
    BEAT_HEADER,
    FireKind,
    arguments_of,
    beat_headers,
    is_as_beat_sends,
    iso,
    kind_key,
    own_headers,
)
from orchestrator.schedules.redis.scripts import Written
from orchestrator.sending.address import Directory
from orchestrator.sending.celery_sends import TaskSend, has_own_way, refuse_outside_of_runs, send_by_task
from orchestrator.sending.fast_publisher import PublishChannel
from orchestrator.sending.messages.agent_messages import build_message
from orchestrator.sending.messages.message_template import MessageTemplate, take_template
from orchestrator.sending.messages.message_texts import hidden_in, reprs_of
from orchestrator.sending.messages.outgoing_message import OutgoingMessage, queue_name
from orchestrator.sending.messages.task_messages import build_task_message
from orchestrator.sending.publish import headers_of, library_errors
from orchestrator.sending.send_options import CheckedOptions
from orchestrator.telemetry import tracing
from orchestrator.transport.json_text import encode
from orchestrator.transport.producer_batch import open_batch
from orchestrator.transport.publishing import PublishingChannel

#: Kinds of messages that are kept.
_MOST_KINDS: Final = 1000

Lazy = Callable[[], tuple[list[Any], dict[str, Any], dict[str, Any]]]


class FireWriter:
    """Writes messages for one app. Not for two threads at once."""

    def __init__(self, app: Celery, directory: Directory, hidden: tuple[str, ...]) -> None:
        self._app = app
        self._directory = directory
        self._hidden = hidden
        self._channel: PublishChannel | None = None
        #: With what was known of the recipient when the kind was made.
        self._kinds: dict[Hashable, tuple[Any, FireKind | None]] = {}
        #: The keys of those kinds whose recipients were compared since the last look around.
        self._compared: set[Hashable] = set()
        self._plain = False

    def forget(self) -> None:
        """Write everything anew: Redis has lost the mailboxes, or a connection broke."""
        self._drop_kinds()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def is_sent_elsewhere(self, definition: ScheduleDefinition, options: Mapping[str, Any]) -> bool:
        """Whether a message cannot be accepted by the script of its fire, because its task or its options send it."""
        return bool(why_sent_elsewhere(self._app, definition, options))

    def write(
        self,
        definition: ScheduleDefinition,
        nominal_ms: int,
        delivery: str,
        missed: int = 0,
        lazy: Lazy | None = None,
    ) -> Written:
        """The message of a fire.

        Args:
            definition: the schedule.
            nominal_ms: the time that it is for.
            delivery: its delivery's id.
            missed: how many times before it were coalesced into it.
            lazy: makes arguments and options that only code has.

        Raises:
            InvalidSchedule: its message does not go to one mailbox as JSON.
            Exception: what a lazy argument, a receiver, a router or the task's class raises.
            BrokerUnavailable: a mailbox could not be declared.
        """
        at = iso(nominal_ms)
        if lazy is None and self._plain:
            kind = self._kind(definition, delivery)
            if kind is not None:
                args, kwargs = arguments_of(definition)
                return kind.written(definition.id, delivery, at, missed, args, kwargs)
        return self._by_celery(definition, delivery, at, missed, lazy)

    def prepare(self, definition: ScheduleDefinition) -> None:
        """Write what the messages of a schedule have in common, unless Celery has to write each of them.

        Raises:
            InvalidSchedule, BrokerUnavailable: as :meth:`write`.
            Exception: what a router or the task's class raises.
        """
        self.look_around()
        if self._plain and not definition.is_code_bound:
            self._kind(definition, delivery_id_of(definition.id, 0))

    def look_around(self) -> None:
        """Look whether something changes or observes the messages that Celery publishes; before some are written.

        Recipients that have changed since the last look are noticed, too.
        """
        app = self._app
        self._compared.clear()
        self._plain = not (
            signals.before_task_publish.receivers
            or signals.after_task_publish.receivers
            or signals.task_sent.receivers
            or app.conf.task_send_sent_event
            or app.amqp.routes
            or tracing.is_on()
        )

    # -- kinds of messages

    def _kind(self, definition: ScheduleDefinition, delivery: str) -> FireKind | None:
        """The kind of a schedule's messages; ``None`` if Celery has to write each of them."""
        key = kind_key(definition)
        if key not in self._compared:
            known = self._known_of(definition.recipient)
            if key not in self._kinds or self._kinds[key][0] != known:
                if len(self._kinds) >= _MOST_KINDS:
                    self._drop_kinds()
                self._kinds[key] = known, self._make_kind(definition, delivery)
            self._compared.add(key)
        return self._kinds[key][1]

    def _known_of(self, recipient: Recipient) -> Any:
        """What goes into a kind and may change while the scheduler runs, because workers announce it."""
        directory = self._directory
        if isinstance(recipient, TaskRecipient):
            return directory.by_task(recipient.task)
        address = directory.address(recipient.agent, recipient.message)
        return address, directory.hidden_in(address)

    def _drop_kinds(self) -> None:
        self._kinds.clear()
        self._compared.clear()

    def _make_kind(self, definition: ScheduleDefinition, delivery: str) -> FireKind | None:
        recipient = definition.recipient
        if isinstance(recipient, TaskRecipient) and is_as_beat_sends(definition):
            options = recipient.options
            if self.is_sent_elsewhere(definition, options) or options.get("countdown") or options.get("task_id"):
                return None
            template = self._entry_template(
                ANY_ID,
                recipient.task,
                list(recipient.args),
                dict(recipient.kwargs),
                options,
                delivery,
                ANY_TIME,
                ANY_MISSED,
            )
            if template is None or not template.lasting:
                return None
            values = template.values
            queue, priority = str(json.loads(values["queue"])), values["priority"]
            return FireKind(template, queue, values["own"], priority, self._hidden)
        message = self.outgoing(definition, delivery, ANY_TIME, ANY_MISSED, schedule=ANY_ID)
        task = self._app.tasks.get(message.task)
        is_plain = not (
            message.countdown_s
            or message.expires_s is not None
            or message.supervision.deadline_at_s is not None
            or message.link
            or message.link_error
        )
        if not is_plain or (task is not None and not message.supervision.agent and has_own_way(task)):
            return None
        with headers_of(message) as headers, library_errors(self._app, message.task):
            headers |= beat_headers(definition, ANY_TIME)
            template = self._open.template(self._app, message, headers, reprs_of(message, self._hidden))
            if template is None or not template.lasting:
                return None
            own = encode(headers)[1:-1]
        priority = template.values["priority"] if message.priority is None else str(message.priority)
        return FireKind(template, _queue_in(template, message), own, priority, hidden_in(message, self._hidden))

    # -- messages that Celery writes each time

    def _by_celery(
        self,
        definition: ScheduleDefinition,
        delivery: str,
        at: str,
        missed: int,
        lazy: Lazy | None,
    ) -> Written:
        recipient = definition.recipient
        if isinstance(recipient, TaskRecipient) and lazy is not None:
            args, kwargs, options = lazy()
            recipient = TaskRecipient(recipient.task, tuple(args), kwargs, options)
        if isinstance(recipient, TaskRecipient) and is_as_beat_sends(definition):
            args, kwargs, options = list(recipient.args), dict(recipient.kwargs), dict(recipient.options)
            template = self._entry_template(definition.id, recipient.task, args, kwargs, options, delivery, at, missed)
        else:
            message = self.outgoing(definition, delivery, at, missed, recipient=recipient)
            task = self._app.tasks.get(message.task)
            with headers_of(message) as headers, library_errors(self._app, message.task):
                headers |= beat_headers(definition, at)
                if task is not None and not message.supervision.agent and has_own_way(task):
                    template = self._by_task(task, message, headers)
                else:
                    reprs = reprs_of(message, self._hidden)
                    template = self._open.template(self._app, message, headers, reprs)
        if template is None:
            # It was sent by its task's class, or to a queue of which each worker reads a copy.
            return Written(delivery)
        delay_ms = template.delay_ms
        return Written(delivery, json.loads(template.values["queue"]), template.level, template.render(), delay_ms)

    def _by_task(self, task: Any, message: OutgoingMessage, headers: Mapping[str, Any]) -> MessageTemplate | None:
        with open_batch(Producer(self._open.channel, auto_declare=False)) as batch:
            options = {**message.options, "producer": batch.producer}
            send_by_task(task, TaskSend(replace(message, options=options), headers))
            return take_template(batch, lambda _: headers)

    def _entry_template(
        self,
        schedule_id: str,
        task_name: str,
        args: Any,
        kwargs: Any,
        options: Mapping[str, Any],
        delivery: str,
        at: str,
        missed: int,
    ) -> MessageTemplate | None:
        """The message that Celery's scheduler would send for an entry of ``beat_schedule``."""
        task = self._app.tasks.get(task_name)
        own = {BEAT_HEADER: True, SCHEDULED_FOR: at}
        given = {**options, "headers": {**(options.get("headers") or {}), **own}}
        given.setdefault("task_id", delivery)
        with (
            library_errors(self._app, task_name),
            open_batch(Producer(self._open.channel, auto_declare=False)) as batch,
        ):
            if not any(options.get(name) is not None for name in ELSEWHERE):
                given |= {"producer": batch.producer, "retry": False}
            if task is None:
                self._app.send_task(task_name, list(args), dict(kwargs), **given)
            else:
                task.apply_async(list(args), dict(kwargs), **given)
            return take_template(batch, lambda headers: own_headers(schedule_id, headers, own, missed))

    def outgoing(
        self,
        definition: ScheduleDefinition,
        delivery: str,
        at: str,
        missed: int = 0,
        *,
        schedule: str = "",
        recipient: Recipient | None = None,
    ) -> OutgoingMessage:
        """A fire's message, addressed and supervised as any send; to its ``recipient`` if code has evaluated that.

        Raises:
            UnknownAgent, UnknownMessage: nobody handles it.
            InvalidPolicy: the signature cannot be sent under supervision.
        """
        recipient = recipient or definition.recipient
        metadata = {**definition.metadata, SCHEDULE: schedule or definition.id, SCHEDULED_FOR: at, MISSED: missed}
        waits = definition.overlap is not Overlap.ALLOW or definition.pause_on_failure
        options = CheckedOptions(definition.policy, metadata=metadata, track=waits)
        if isinstance(recipient, TaskRecipient):
            signature = self._app.signature(
                recipient.task, list(recipient.args), dict(recipient.kwargs), options=dict(recipient.options)
            )
            refuse_outside_of_runs(self._app.tasks.get(recipient.task), recipient.task)
            message = build_task_message(self._app, self._directory, signature, None, options)
            return replace(message, id=delivery)
        address = self._directory.address(recipient.agent, recipient.message)
        return build_message(
            self._directory.timeouts,
            options,
            id=delivery,
            task=address.task,
            args=[dict(recipient.fields)],
            agent=address.agent,
            message=address.message,
            policy=address.policy,
            queue=address.queue,
            hide=self._directory.hidden_in(address),
        )

    def size_of(self, definition: ScheduleDefinition) -> int:
        """The bytes of a fire's message; 0 if its task's class sends it."""
        message = self.outgoing(definition, delivery_id_of(definition.id, 0), iso(0))
        task = self._app.tasks.get(message.task)
        if task is not None and not message.supervision.agent and has_own_way(task):
            return 0
        with headers_of(message) as headers, library_errors(self._app, message.task):
            template = self._open.template(self._app, message, headers, reprs_of(message, self._hidden))
        return 0 if template is None else len(template.render().encode())

    @property
    def channel(self) -> PublishingChannel:
        """The channel that it declares mailboxes with.

        Raises:
            kombu.exceptions.OperationalError, redis.exceptions.RedisError: Redis is away.
        """
        return self._open.channel

    @property
    def _open(self) -> PublishChannel:
        if self._channel is None:
            self._channel = PublishChannel(self._app)
        return self._channel


def _queue_in(template: MessageTemplate, message: OutgoingMessage) -> str:
    return queue_name(message) if message.queue is not None else str(json.loads(template.values["queue"]))
