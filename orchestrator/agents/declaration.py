"""Checks the declaration of an agent, its class, and makes an :class:`AgentSpec` of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final

from orchestrator.agents.agent import Agent
from orchestrator.agents.declaration_mistakes import called_method, mistaken_settings
from orchestrator.agents.declared_handlers import declared_handlers, takes_context
from orchestrator.agents.declared_policy import declared_policy
from orchestrator.agents.hooks import Hook
from orchestrator.agents.marks import PeriodicMark, marked_methods
from orchestrator.agents.periodic import periodic_definition
from orchestrator.agents.spec import AgentSpec, HandlerSpec
from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.concurrency import Concurrency
from orchestrator.core.admission.flow_policy import Breaker, Flow, Mailbox
from orchestrator.core.errors import InvalidDeclaration
from orchestrator.core.housekeeping import HOUSEKEEPING_QUEUE
from orchestrator.core.policies.effective import Policy
from orchestrator.core.policies.timeouts import Timeouts
from orchestrator.core.secrets.masked_repr import masked_repr
from orchestrator.core.secrets.secret_names import secret_names
from orchestrator.core.workflows.placement import names_fault

#: Names end up in Redis keys, queue names and command lines.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

#: Attributes that are a value of one class, or None.
_VALUES: Final[Mapping[str, type[Any]]] = {
    "mailbox": Mailbox,
    "breaker": Breaker,
    "bulkhead": Bulkhead,
    "concurrency": Concurrency,
}


def inspect_agent(cls: type[Agent], timeouts: Timeouts | None = None) -> AgentSpec:
    """Check a declaration. The settings' ``timeouts`` say which classes of timeouts there are.

    Raises:
        InvalidDeclaration: it cannot be hosted; names the attribute or method, its value and what is allowed.
    """
    _check_name(cls)
    timeouts = timeouts or Timeouts()
    policy = declared_policy(cls.__qualname__, {f.name: getattr(cls, f.name) for f in fields(Policy)}, timeouts)
    _check_attributes(cls)
    marks = marked_methods(cls)
    handlers = declared_handlers(cls, marks, timeouts)
    _check_concurrency(cls, handlers)
    return AgentSpec(
        cls.name,
        cls,
        policy,
        handlers,
        Flow(cls.mailbox, cls.breaker),
        down_takes_context=takes_context(cls, called_method(cls, Hook.DOWN)),
        timeouts=timeouts,
        schedules=tuple(
            periodic_definition(cls.name, method, mark)
            for method, mark in marks.items()
            if isinstance(mark, PeriodicMark)
        ),
        capabilities=tuple(sorted(set(cls.capabilities))),
        singleton=cls.singleton,
        bulkhead=cls.bulkhead,
        concurrency=cls.concurrency,
    )


def _check_name(cls: type[Agent]) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise InvalidDeclaration(f"{masked_repr(cls)} is not a subclass of Agent")
    if not isinstance(cls.name, str) or not _NAME.fullmatch(cls.name):
        allowed = "letters, digits, '_', '.', '-', at most 100"
        fault = f"{cls.__qualname__}.name={masked_repr(cls.name)}; allowed: {allowed}"
        raise InvalidDeclaration("; ".join([fault, *mistaken_settings(Agent, cls)]))
    if cls.name == HOUSEKEEPING_QUEUE:
        raise InvalidDeclaration(
            f"{cls.__qualname__}.name={cls.name!r}; allowed: any other, for this is the mailbox of the monitor manager"
        )


def _check_attributes(cls: type[Agent]) -> None:
    where = cls.__qualname__
    for name, kind in _VALUES.items():
        if not isinstance(value := getattr(cls, name), kind | None):
            raise InvalidDeclaration(f"{where}.{name}={masked_repr(value)}; allowed: a {kind.__name__}")
    if (fault := names_fault(cls.capabilities)) and not _is_empty(cls.capabilities):
        raise InvalidDeclaration(f"{where}.capabilities={masked_repr(cls.capabilities)}; {fault}")
    if not isinstance(cls.singleton, bool):
        raise InvalidDeclaration(f"{where}.singleton={masked_repr(cls.singleton)}; allowed: True, False")
    if mistakes := list(mistaken_settings(Agent, cls)):
        raise InvalidDeclaration("; ".join(mistakes))


def _is_empty(names: object) -> bool:
    return isinstance(names, Collection) and not isinstance(names, str) and not names


def _check_concurrency(cls: type[Agent], handlers: Mapping[str, HandlerSpec]) -> None:
    key = cls.concurrency.key if cls.concurrency is not None else ""
    if not key:
        return
    where = f"{cls.__qualname__}.concurrency has key={key!r}"
    messages = [handler.message for handler in handlers.values() if key in handler.message.model_fields]
    if not messages:
        raise InvalidDeclaration(f"{where}; allowed: a field of a message that it handles")
    if any(key in secret_names(message) for message in messages):
        raise InvalidDeclaration(f"{where}, a secret; allowed: a field that Redis may have in plain text")
