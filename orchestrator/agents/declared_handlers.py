"""Finds the handlers that an agent's class declares: methods with a mark, and those that are called by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.agents.agent import Agent
from orchestrator.agents.declaration_mistakes import called_method, mistaken_message, mistaken_return
from orchestrator.agents.declared_policy import declared_policy
from orchestrator.agents.hooks import Hook
from orchestrator.agents.marks import DeclaredMark, HandlesMark, PeriodicMark, RepliesMark, VotesMark, marks_of
from orchestrator.agents.periodic import Fire, fire_message
from orchestrator.agents.replies import methods_that_ask, reply_message
from orchestrator.agents.singleton import TERM_MESSAGES
from orchestrator.agents.spec import HandlerSpec
from orchestrator.agents.votes import DecisionFields, vote_name
from orchestrator.core.calls.reply import Reply
from orchestrator.core.coordination.decision import Decision, Vote
from orchestrator.core.coordination.term import Term
from orchestrator.core.errors import InvalidDeclaration
from orchestrator.core.message import message_name
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.core.workflows.cancelled_step import CancelledStep


def declared_handlers(
    cls: type[Agent], marks: Mapping[str, DeclaredMark], timeouts: Timeouts
) -> dict[str, HandlerSpec]:
    """The handlers of a class, by the names of the messages that call them.

    Raises:
        InvalidDeclaration: a method cannot be called as its mark or its name says, or two are called with the same.
    """
    handlers = _Handlers(cls, marks, timeouts)
    for method, mark in marks.items():
        handlers.add_marked(method, mark)
    if not any(isinstance(mark, RepliesMark) for mark in marks.values()):
        asking = next(methods_that_ask(cls), None)
        if asking is not None:
            raise InvalidDeclaration(
                f"{cls.__qualname__}.{asking} asks with then=True, but no method gets the reply; "
                "allowed: a method marked with @replies(SomeMessage)"
            )
    is_voter = any(isinstance(mark, VotesMark) for mark in marks.values())
    handlers.add_called(
        Hook.DECISION, DecisionFields, Decision, "beside a method marked with @votes(SomeMessage)", is_voter
    )
    for name, message in TERM_MESSAGES.items():
        handlers.add_called(Hook(name), message, Term, "with singleton = True", cls.singleton)
    handlers.add_on_cancelled()
    if not handlers.found:
        raise InvalidDeclaration(f"{cls.__qualname__} has no handler; mark a method with @handles(SomeMessage)")
    return handlers.found


def takes_context(cls: type[Agent], method: Callable[..., Any]) -> bool:
    """Whether a method has a second parameter, for the context.

    Raises:
        InvalidDeclaration: a worker cannot call it.
    """
    where = f"{cls.__qualname__}.{method.__name__}"
    if inspect.iscoroutinefunction(method):
        raise InvalidDeclaration(f"{where} is async; Celery's pools run plain functions")
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise InvalidDeclaration(f"{where} yields; Celery's pools run plain functions")
    parameters = len(inspect.signature(method).parameters)
    if parameters not in (2, 3):
        raise InvalidDeclaration(f"{where} takes {parameters - 1} arguments; allowed: message, or message and context")
    return parameters == 3


class _Handlers:
    def __init__(self, cls: type[Agent], marks: Mapping[str, DeclaredMark], timeouts: Timeouts) -> None:
        self.found: dict[str, HandlerSpec] = {}
        self._cls = cls
        self._timeouts = timeouts
        #: The names of the messages that it handles: what a wrong annotation most likely means.
        self._handled = [message_name(mark.message) for mark in marks.values() if isinstance(mark, HandlesMark)]

    def add_marked(self, method: str, mark: DeclaredMark) -> None:
        """Add the handler of a method with a mark."""
        with_context = takes_context(self._cls, getattr(self._cls, method))
        if isinstance(mark, PeriodicMark):
            self._check_annotation(method, "runs by a schedule", Fire)
            spec = HandlerSpec(fire_message(method), method, Policy(), with_context, is_periodic=True)
            return self._add(method, spec, "run by a schedule")
        policy = declared_policy(f"{self._cls.__qualname__}.{method}", mark.policy, self._timeouts)
        name = message_name(mark.message)
        if isinstance(mark, RepliesMark):
            self._check_annotation(method, "gets replies", Reply)
            message = reply_message(mark.message)
            spec = HandlerSpec(message, method, policy, with_context, is_reply=True)
            return self._add(message_name(message), spec, f"get the replies to {name}")
        if isinstance(mark, VotesMark):
            self._check_annotation(method, f"votes on {name}", mark.message)
            if annotated := mistaken_return(getattr(self._cls, method), Vote):
                raise InvalidDeclaration(
                    f"{self._cls.__qualname__}.{method} votes on {name}, but returns {annotated}; "
                    "allowed: Vote.approve() or Vote.reject(why)"
                )
            spec = HandlerSpec(mark.message, method, policy, with_context, is_vote=True)
            return self._add(vote_name(name), spec, f"vote on {name}")
        self._check_annotation(method, f"handles {name}", mark.message)
        spec = HandlerSpec(mark.message, method, policy, with_context, is_idempotent=mark.is_idempotent)
        return self._add(name, spec, f"handle {name}")

    def add_called(self, hook: Hook, message: type[Any], argument: type[Any], when: str, is_called: bool) -> None:
        """Add the handler of a method that is called by its name, if the class has it."""
        method = hook.value
        function: Any = called_method(self._cls, hook, may_be_none=True)
        marks = marks_of(function)
        if function is None or (marks and not is_called):
            return
        where = f"{self._cls.__qualname__}.{method}"
        if not is_called:
            raise InvalidDeclaration(f"{where}: never called; allowed: {when}")
        what = f"is called with a {argument.__name__}"
        if marks:
            raise InvalidDeclaration(f"{where} {what}, and is marked with {marks[0]}; allowed: no mark")
        self._check_annotation(method, what, argument)
        self._add(method, HandlerSpec(message, method, Policy(), takes_context(self._cls, function)), f"get {method}")

    def add_on_cancelled(self) -> None:
        """Add the handler of ``on_cancelled``, which is called only where a class has one of its own."""
        method = called_method(self._cls, Hook.CANCELLED)
        if method is Agent.on_cancelled:
            return
        self._check_annotation("on_cancelled", "is called with a CancelledStep", CancelledStep)
        name = message_name(CancelledStep)
        spec = HandlerSpec(CancelledStep, "on_cancelled", Policy(), takes_context(self._cls, method))
        self._add(name, spec, f"handle {name}")

    def _add(self, name: str, spec: HandlerSpec, use: str) -> None:
        other = self.found.setdefault(name, spec)
        if other is not spec:
            raise InvalidDeclaration(f"{self._cls.__qualname__}: {other.method} and {spec.method} both {use}")

    def _check_annotation(self, method: str, what: str, argument: type[Any]) -> None:
        if annotated := mistaken_message(getattr(self._cls, method), argument, self._handled):
            raise InvalidDeclaration(
                f"{self._cls.__qualname__}.{method} {what}, but takes {annotated}; allowed: {argument.__name__}"
            )
