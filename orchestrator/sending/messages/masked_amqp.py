"""Celery's message builder, with secrets masked in the texts of the arguments."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu.utils.imports import symbol_by_name

from orchestrator.sending.messages.shown_arguments import args_text, kwargs_text

#: How deep Celery shows arguments unless its setting says otherwise.
_SHOWN_LEVELS = 3


class MaskedArguments:
    """A mix-in for :class:`celery.app.amqp.AMQP`: ``argsrepr`` and ``kwargsrepr`` do not show hidden fields.

    ``task-sent`` and ``task-received`` events, Flower and the workers' logs show these two texts. A keyword, a key of a
    nested object, or a positional argument whose parameter has a hidden name is masked. A text that the caller passes
    stays as it is.
    """

    app: Celery
    argsrepr_maxsize: int
    kwargsrepr_maxsize: int

    def as_task_v1(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
    ) -> Any:
        """As Celery's. A message of protocol 1 has no texts of its arguments; its ``task-sent`` event has."""
        message = super().as_task_v1(task_id, name, args, kwargs, *more, **options)  # type: ignore[misc]
        if message.sent_event:
            message.sent_event["args"], message.sent_event["kwargs"] = self._texts(name, args, kwargs)
        return message

    def as_task_v2(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
    ) -> Any:
        """As Celery's."""
        if options.get("argsrepr") is None or options.get("kwargsrepr") is None:
            texts = self._texts(name, args, kwargs)
            for option, text in zip(("argsrepr", "kwargsrepr"), texts, strict=True):
                if options.get(option) is None:
                    options[option] = text
        return super().as_task_v2(task_id, name, args, kwargs, *more, **options)  # type: ignore[misc]

    def _texts(self, name: str, args: Any, kwargs: Any) -> tuple[str, str]:
        args, kwargs = args or (), kwargs or {}
        hidden = self.app.orchestrator.runtime.hidden.names
        # Celery 5.6 has no such setting, and always shows as many levels.
        levels = self.app.conf.get("task_repr_maxlevels", _SHOWN_LEVELS)
        return (
            args_text(self.app.tasks.get(name), args, hidden, self.argsrepr_maxsize, levels),
            kwargs_text(kwargs, hidden, self.kwargsrepr_maxsize, levels),
        )


class MaskingAMQP(MaskedArguments, AMQP):
    """Celery's own, with the mix-in."""


def mask_arguments(app: Celery) -> None:
    """Have the app mask the texts of arguments in all that it sends. Nothing of its configuration is read."""
    made: Any = vars(app).get("amqp")
    cls = type(made) if made is not None else symbol_by_name(app.amqp_cls)
    if issubclass(cls, MaskedArguments):
        return
    masking = MaskingAMQP if cls is AMQP else type(cls.__name__, (MaskedArguments, cls), {})
    app.amqp_cls = masking
    if made is not None:
        made.__class__ = masking
        made.task_protocols = {1: made.as_task_v1, 2: made.as_task_v2}
        vars(made).pop("create_task_message", None)
