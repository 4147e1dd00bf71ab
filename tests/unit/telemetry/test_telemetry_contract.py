"""Every place that emits keeps to the contract in ``telemetry/events.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.telemetry import events

PACKAGE = Path(events.__file__).parent.parent


@dataclass(frozen=True)
class Emission:
    """One call of ``emit``; ``None`` where the fields cannot be read from the source."""

    where: str
    event: str
    measurements: frozenset[str] | None
    metadata: frozenset[str] | None


def emissions() -> Iterator[Emission]:
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        # Each process of a run collects this: to parse all files takes it two seconds.
        if "emit(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "emit" and node.args:
                yield read(f"{path.relative_to(PACKAGE)}:{node.lineno}", node)


def read(where: str, call: ast.Call) -> Emission:
    measured = call.args[1] if len(call.args) > 1 else ast.Dict(keys=[], values=[])
    names = None
    if isinstance(measured, ast.Dict) and all(isinstance(key, ast.Constant) for key in measured.keys):
        names = frozenset(str(key.value) for key in measured.keys if isinstance(key, ast.Constant))
    told = [keyword.arg for keyword in call.keywords]
    metadata = None if None in told else frozenset(name for name in told if name)
    return Emission(where, ast.unparse(call.args[0]), names, metadata)


EMISSIONS = list(emissions())


def named(expression: str) -> list[events.EventName]:
    """The events an expression may mean: ``events.A``, or ``events.A if … else events.B``."""
    names = [node.attr for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Attribute)]
    return [getattr(events, name) for name in names if hasattr(events, name)]


def test_there_are_emissions_to_check() -> None:
    assert len(EMISSIONS) > 10


@pytest.mark.parametrize("emission", EMISSIONS, ids=lambda e: e.where)
def test_it_names_an_event_of_the_contract_and_gives_exactly_its_fields(emission: Emission) -> None:
    found = named(emission.event)
    assert found, f"{emission.event} is not in telemetry/events.py"
    for event in found:
        assert isinstance(event, events.EventName)
        if emission.measurements is not None:
            assert emission.measurements == set(event.measurements)
        if emission.metadata is not None:
            assert emission.metadata == set(event.metadata)


@pytest.mark.parametrize("event", events.contract())
def test_every_event_of_the_contract_is_emitted_and_says_what_it_means(event: events.EventName) -> None:
    assert event.meaning.endswith(".")
    assert any(event in named(emission.event) for emission in EMISSIONS), f"nothing emits {event}"


def test_names_are_unique_and_have_two_parts() -> None:
    names = [str(event) for event in events.contract()]
    assert len(names) == len(set(names))
    assert all(len(name.split(".")) == 2 for name in names)
