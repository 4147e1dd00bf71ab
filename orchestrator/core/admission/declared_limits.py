"""The limits that an agent declares, as its workers report them, and where these differ.

Redis has one set of limits for each mailbox: those of the worker that registered last. Workers of another version that
declare others go by these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from orchestrator.core.admission.bulkhead import Bulkhead
from orchestrator.core.admission.concurrency import Concurrency
from orchestrator.core.admission.flow_policy import Flow
from orchestrator.core.checks.numbers import is_number

#: By policy, such as ``breaker``: the fields that have a value.
Limits: TypeAlias = Mapping[str, Mapping[str, Any]]

#: Incarnations that are named of those which declare the same.
_NAMED: Final = 2


def limits_of(flow: Flow, bulkhead: Bulkhead | None, concurrency: Concurrency | None) -> dict[str, dict[str, Any]]:
    """The limits of an agent as JSON data, without what it does not declare."""
    declared: dict[str, Any] = {
        "concurrency": concurrency, "mailbox": flow.mailbox, "breaker": flow.breaker, "bulkhead": bulkhead
    }  # fmt: skip
    return {
        name: {field: value for field, value in asdict(policy).items() if value not in (None, "")}
        for name, policy in declared.items()
        if policy is not None
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """A policy that living incarnations of one agent declare differently."""

    agent: str
    policy: str
    #: Each value, as text, with the incarnations that declare it.
    values: Sequence[tuple[str, Sequence[str]]]

    def __str__(self) -> str:
        said = "; ".join(f"{value} in {_some(incarnations)}" for value, incarnations in self.values)
        return (
            f"agent {self.agent}: its workers declare different limits, {self.policy}: {said}. "
            "Those of the worker that registered last hold for all, until another one starts"
        )


def differences(declared: Mapping[str, Mapping[str, Limits]]) -> list[Difference]:
    """The policies that differ between incarnations: ``declared`` has the limits of each one's agents."""
    by_agent: dict[str, dict[str, Limits]] = {}
    for incarnation, agents in declared.items():
        for agent, limits in agents.items():
            by_agent.setdefault(agent, {})[incarnation] = limits
    found = []
    for agent, known in sorted(by_agent.items()):
        for policy in sorted({name for limits in known.values() for name in limits}):
            values = _values({incarnation: limits.get(policy) for incarnation, limits in known.items()})
            if len(values) > 1:
                found.append(Difference(agent, policy, values))
    return found


def _values(declared: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, list[str]]]:
    """By value, the incarnations that declare it; of fields, those that differ."""
    known = {
        incarnation: None if fields is None else {name: _shown(value) for name, value in fields.items()}
        for incarnation, fields in declared.items()
    }
    given = [fields for fields in known.values() if fields is not None]
    names = sorted({name for fields in given for name in fields})
    differ = [name for name in names if len({fields.get(name) for fields in given}) > 1] or names
    values: dict[str, list[str]] = {}
    for incarnation, fields in sorted(known.items()):
        text = "none" if fields is None else ", ".join(f"{name}={fields.get(name, 'none')}" for name in differ)
        values.setdefault(text, []).append(incarnation)
    return sorted(values.items())


def _shown(value: Any) -> str:
    return f"{value:g}" if is_number(value) else str(value)


def _some(incarnations: Sequence[str]) -> str:
    more = len(incarnations) - _NAMED
    return ", ".join(incarnations[:_NAMED]) + (f" and {more} more" if more > 0 else "")
