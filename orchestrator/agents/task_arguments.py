"""Checks and changes a plain task's arguments by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

from celery import Celery

from orchestrator.core.errors import InvalidMessage

_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class TaskArguments:
    """Uses the signatures of registered tasks; of other tasks, only the keywords in their messages."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def changed(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with ``changes``, by the names of the task's parameters.

        Raises:
            InvalidMessage: a name is none of the task's, or the arguments would not fit its signature.
        """
        signature = self._signature(task)
        new_args, new_kwargs = list(args), dict(kwargs)
        if signature is None:
            if unknown := sorted(set(changes) - set(kwargs)):
                allowed = ", ".join(sorted(kwargs)) or "nothing"
                why = "the task is not registered here, so only keywords that the message has can be changed"
                raise InvalidMessage(task, [f"{', '.join(map(repr, unknown))}: {why}; allowed: {allowed}"])
            return new_args, {**new_kwargs, **changes}
        by_place = [name for name, parameter in signature.parameters.items() if parameter.kind in _BY_PLACE]
        for name, value in changes.items():
            parameter = signature.parameters.get(name)
            if name in by_place[: len(new_args)]:
                new_args[by_place.index(name)] = value
                new_kwargs.pop(name, None)
            elif parameter is not None and parameter.kind is Parameter.POSITIONAL_ONLY:
                if by_place.index(name) > len(new_args):
                    raise InvalidMessage(task, [f"{name!r} comes after {by_place[len(new_args)]!r}, which is missing"])
                new_args.append(value)
            elif parameter is not None and parameter.kind is Parameter.VAR_POSITIONAL:
                if not isinstance(value, list):
                    raise InvalidMessage(task, [f"{name!r}: allowed: a list, of the arguments after the named ones"])
                new_args[len(by_place) :] = value
            elif parameter is None and not _takes_any(signature):
                allowed = ", ".join(signature.parameters) or "nothing"
                raise InvalidMessage(task, [f"{name!r} is no argument of the task; allowed: {allowed}"])
            else:
                new_kwargs[name] = value
        self.check(task, new_args, new_kwargs)
        return new_args, new_kwargs

    def check(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check arguments by the task's signature, if the task is registered here.

        Raises:
            InvalidMessage: they do not fit.
        """
        signature = self._signature(task)
        if signature is not None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise InvalidMessage(task, [f"{error}; allowed: {task}{signature}"]) from None

    def _signature(self, task: str) -> inspect.Signature | None:
        known = self._app.tasks.get(task)
        try:
            return None if known is None else inspect.signature(known.run)
        except (TypeError, ValueError):
            return None


def _takes_any(signature: inspect.Signature) -> bool:
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in signature.parameters.values())
